import pytest
import torch

from monai_mamba_gen.metrics import (
    dice_scores,
    ejection_fraction,
    jacobian_determinant,
    non_positive_jacobian,
    structure_volumes,
)

ED = torch.tensor([1, 2, 3, 3, 3, 3, 2, 0]).reshape(2, 2, 2)
ES = torch.tensor([1, 2, 3, 2, 0, 0, 2, 1]).reshape(2, 2, 2)


def linear_field(matrix, shape=(5, 4, 3)):
    """u(x) = A x on the grid."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(size).double() for size in shape), indexing="ij"))
    return torch.einsum("ij,jhwd->ihwd", matrix.double(), grid)


def test_dice_by_hand():
    scores = dice_scores(ED, ES)
    assert scores == {
        "RV": pytest.approx(2 * 1 / (1 + 2)),
        "Myo": pytest.approx(2 * 2 / (2 + 3)),
        "LV": pytest.approx(2 * 1 / (4 + 1)),
    }
    assert set(dice_scores(ED, ED).values()) == {1.0}


def test_structure_that_the_true_label_lacks_has_no_dice():
    without = torch.where(ES == 2, 0, ES)
    assert dice_scores(ED, without)["Myo"] is None
    assert dice_scores(without, ED)["Myo"] == 0.0
    assert dice_scores(ED.float(), ES.float(), {"LV": 3}) == {"LV": pytest.approx(0.4)}


def test_volumes_and_ejection_fraction_by_hand():
    assert structure_volumes(ED, 0.25) == {"RV": 0.25, "Myo": 0.5, "LV": 1.0}
    assert ejection_fraction(ED, ES) == 0.75
    assert ejection_fraction(ED, ES, structure=1) == -1.0
    assert ejection_fraction(torch.zeros_like(ED), ES) is None
    assert ejection_fraction(ED, torch.zeros_like(ES)) == 1.0


def test_labels_of_two_shapes():
    for function in (dice_scores, ejection_fraction):
        with pytest.raises(ValueError, match=r"\(2, 2, 2\) and \(2, 2, 1\)"):
            function(ED, ES[..., :1])


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(3, 3),
        torch.tensor([[0.1, 0.2, -0.3], [0.4, -0.2, 0.1], [0.0, 0.3, 0.5]]),
        torch.diag(torch.tensor([-2.0, 0.0, 0.0])),
        torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    ],
)
def test_linear_map_has_its_determinant_everywhere(matrix):
    expected = torch.linalg.det(torch.eye(3).double() + matrix.double())
    found = jacobian_determinant(linear_field(matrix))
    assert found.shape == (5, 4, 3)
    assert torch.allclose(found, expected.expand_as(found), atol=1e-12)
    assert non_positive_jacobian(linear_field(matrix)) == float(expected <= 0)


def test_central_differences_in_the_middle_one_sided_at_the_border():
    field = torch.zeros(3, 4, 2, 2)
    field[0] = (torch.arange(4.0) ** 2 / 8)[:, None, None]
    slopes = 1 + torch.tensor([1.0, 2.0, 4.0, 5.0]) / 8
    assert torch.allclose(jacobian_determinant(field), slopes[:, None, None].expand(4, 2, 2))


def test_share_of_folds():
    """x + u(x) is (0, 3, 2, 1, 4): it runs backwards at the third of five."""
    field = torch.zeros(3, 5, 2, 2)
    field[0] = torch.tensor([0.0, 2.0, 0.0, -2.0, 0.0])[:, None, None]
    assert jacobian_determinant(field)[:, 0, 0].tolist() == [3.0, 1.0, -1.0, 1.0, 3.0]
    assert non_positive_jacobian(field) == pytest.approx(1 / 5)


def test_one_slice_and_half_precision():
    field = linear_field(torch.diag(torch.tensor([0.5, 0.5, 0.5])), (4, 4, 1))
    assert jacobian_determinant(field.half()).unique().tolist() == [2.25]


def test_shape_of_the_field():
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 4\)"):
        jacobian_determinant(torch.zeros(2, 4, 4, 4))
