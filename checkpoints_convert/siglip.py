"""The image tower of SigLIP as Hugging Face stores it; timm's copies are timm's layout."""

from __future__ import annotations

from checkpoints_convert.clip import HUGGING_FACE_NAMES, TEXT, is_hugging_face, prepare
from checkpoints_convert.layout import Layout
from checkpoints_convert.tensors import State


def recognise(state: State) -> bool:
    position = "vision_model.embeddings.position_embedding.weight"
    return position in state and not is_hugging_face(state)


LAYOUT = Layout(
    name="siglip",
    title="SigLIP",
    recognise=recognise,
    renames=HUGGING_FACE_NAMES,
    left_out=TEXT,
    pixels="half",
    activation="gelu_tanh",
    prepare=prepare,
)
