"""Published weights in, jaxdet weights out: `jaxdet convert SOURCE OUT`.

A file's way: `reading` opens it without running anything it holds; a `Layout`, one module for each
pre-training, gives its tensors timm's names and says what is left out on purpose; `vit` (or
`detectron2` for a whole detector) turns these into arrays under jaxdet's parameter paths; `writing`
computes them one by one into the output, beside the `report` of what became of every tensor.
"""
