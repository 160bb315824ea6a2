"""The labels and offsets of image tokens, the probe's loss, and the Muon optimizer."""

import numpy as np
import pytest
import torch
from torch import nn

from omnigen2_rt.nano.training.labels import LABEL_CLASSES, token_labels, token_offsets
from omnigen2_rt.nano.training.loop import Training
from omnigen2_rt.nano.training.muon import ITERATIONS, Muon, orthogonalize
from omnigen2_rt.nano.training.vision_encoder import probe_loss
from omnigen2_rt.nano.world.landscapes import SUBJECTS, Landscape
from omnigen2_rt.nano.world.scenes import COLOURS, RELATIONS, SHAPES, Scene, Thing

SCENE = Scene(
    background="blue",
    things=(
        Thing(shape="star", colour="red", size="small", x=33.0, y=64.0, radius=12.0),
        Thing(shape="circle", colour="black", size="large", x=95.0, y=64.0, radius=20.0, dents=(0.2, -0.2), style="striped"),
    ),
)


def test_token_labels_are_those_of_the_near_thing_and_the_background() -> None:
    labels = token_labels(SCENE, (4, 4)).reshape(4, 4, 7)
    assert (labels[..., 0] == list(COLOURS).index("blue")).all()
    assert labels[0, 0, 1:].tolist() == [0] * 6
    left, right = (RELATIONS.index(relation) + 1 for relation in ("left", "right"))
    assert labels[1, 0, 1:].tolist() == [SHAPES.index("star") + 1, list(COLOURS).index("red") + 1, 1, left, 1, 1]
    assert labels[2, 3, 1:].tolist() == [SHAPES.index("circle") + 1, list(COLOURS).index("black") + 1, 2, right, 2, 3]


def test_token_offsets_are_from_the_centre_of_a_token_in_its_sides() -> None:
    offsets = token_offsets(SCENE, (4, 4)).reshape(4, 4, 3)
    np.testing.assert_allclose(offsets[1, 0], [(33 - 16) / 32, (64 - 48) / 32, 12 / 32], rtol=1e-6)
    assert not offsets[0, 0].any()


def test_tokens_of_a_wide_landscape_show_its_subject() -> None:
    landscape = Landscape(subject="tree", colour="white", is_night=True, shift_px=8.0, size_px=(192, 128))
    labels = token_labels(landscape, (4, 6)).reshape(4, 6, 7)
    assert (labels[..., 0] == list(COLOURS).index("black")).all()
    kind, white = len(SHAPES) + SUBJECTS.index("tree") + 1, list(COLOURS).index("white") + 1
    assert labels[2, 3].tolist() == [list(COLOURS).index("black"), kind, white, 0, 0, 1, 1]
    assert not labels[:, [0, 5], 1:].any()
    offsets = token_offsets(landscape, (4, 6)).reshape(4, 6, 3)
    np.testing.assert_allclose(offsets[2, 3], [(104 - 112) / 32, (72 - 80) / 32, 26 / 32])


def test_loss_of_right_logits_is_near_zero_and_their_accuracy_is_one() -> None:
    labels = torch.from_numpy(token_labels(SCENE, (4, 4)))[None]
    certain = [10 * torch.nn.functional.one_hot(labels[..., k], size).float() for k, size in enumerate(LABEL_CLASSES)]
    loss, metrics = probe_loss(torch.cat(certain, -1), labels)
    assert loss < 0.01 and metrics == {"probe_accuracy": 1.0, "probe_quality": 1.0}


@pytest.mark.parametrize("shape", [(3, 8, 24), (2, 24, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert 0.5 < values.min() and values.max() < 1.3 and ITERATIONS == 5


def test_muon_moves_matrices_of_one_shape_each_by_its_own_gradient() -> None:
    torch.manual_seed(0)
    alone, first, second = (nn.Parameter(torch.zeros(4, 6)) for _ in range(3))
    gradients = torch.randn(2, 4, 6)
    for parameter, gradient in zip((alone, first, second), gradients[[0, 0, 1]], strict=True):
        parameter.grad = gradient.clone()
    Muon([alone], lr=0.1).step()
    Muon([first, second], lr=0.1).step()
    torch.testing.assert_close(first, alone)
    assert not torch.allclose(first, second)


def test_training_makes_its_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    from omnigen2_rt.nano.training.loop import Schedule

    state = tmp_path_factory.mktemp("work") / "new" / "state.pt"
    Training(nn.Linear(1, 1), Schedule(learning_rate=1.0), state).save()
    assert state.is_file()
