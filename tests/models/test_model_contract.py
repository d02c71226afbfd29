"""Every registered network through the same checks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers.networks import answer, lived_in, picture
from lydite.card import Architecture
from lydite.edits import KeepChannels
from lydite.errors import ConfigError
from lydite.models import NETWORKS, Network, build, describe
from lydite.models.cost import count_parameters
from lydite.models.surgery import keep_channels_, replay_

SIZE = 64


def fresh(name: str, size: int = SIZE, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build(Architecture(network=name, input_size=size))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_logits_are_the_head_of_the_features(name: str) -> None:
    network, x = lived_in(name), picture()
    with torch.no_grad():
        features = network.features(x)
        assert features.dim() == 4
        assert torch.equal(network.head(features), network(x))
    assert network(x).shape == (2, 2)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_equal_seeds_give_equal_weights(name: str) -> None:
    one, two, other = fresh(name), fresh(name), fresh(name, seed=1)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert not all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


@pytest.mark.parametrize("name", list(NETWORKS))
def test_gradients_reach_every_parameter(name: str) -> None:
    network = fresh(name)
    network(picture(4)).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name


@pytest.mark.parametrize("name", list(NETWORKS))
def test_groups_fit_the_tensors(name: str) -> None:
    network = fresh(name)
    tensors, names = network.state_dict(), [g.name for g in network.groups()]
    assert len(names) == len(set(names)) > 0
    covered: set[tuple[str, int]] = set()
    for group in network.groups():
        for member in group.members:
            assert tensors[member.tensor].shape[member.dim] == group.size * member.repeat
            assert (member.tensor, member.dim) not in covered
            covered.add((member.tensor, member.dim))
        for scored in group.scored:
            assert (scored, 0) in {(m.tensor, m.dim) for m in group.members}
    outputs = {k for k, v in tensors.items() if v.dim() > 0 and v.shape[0] != 2}
    assert outputs == {tensor for tensor, dim in covered if dim == 0}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_removing_silent_channels_changes_nothing(name: str) -> None:
    """Channels whose producers are zero are silent; their readers keep their random weights."""
    x, base = picture(), lived_in(name)
    for group in base.groups():
        removed = {*range(0, group.size, 3), group.size - 1}
        keep = [c for c in range(group.size) if c not in removed]
        network = copy.deepcopy(base)
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        for member in group.members:
            if member.dim == 0:
                rows = tensors[member.tensor].data.unflatten(0, (group.size, member.repeat))
                rows[sorted(removed)] = 0
        expected = answer(network, x)
        before = count_parameters(network)
        keep_channels_(network, group.name, keep)
        assert count_parameters(network) < before
        assert torch.allclose(answer(network, x), expected, atol=1e-5), group.name
        assert not torch.allclose(answer(base, x), expected, atol=1e-4), group.name


@pytest.mark.parametrize("name", list(NETWORKS))
def test_one_channel_is_enough_everywhere(name: str) -> None:
    network = fresh(name)
    edits = [KeepChannels(group=g.name, keep=(g.size - 1,)) for g in network.groups()]
    replay_(network, edits)
    assert [g.size for g in network.groups()] == [1] * len(edits)
    assert answer(network, picture()).shape == (2, 2)
    network.train()(picture(4)).sum().backward()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_layers_tell_the_truth_about_their_shapes(name: str) -> None:
    network = fresh(name)
    replay_(network, [KeepChannels(group=g.name, keep=(0, 1, 3)) for g in network.groups()])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels // module.groups)
            assert module.weight.shape[:2] == shape
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == module.running_var.shape == (module.num_features,)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_stages_are_submodules_that_give_maps(name: str) -> None:
    network, shapes = fresh(name).eval(), []
    assert network.stages()
    for stage in network.stages():
        network.get_submodule(stage).register_forward_hook(
            lambda _module, _inputs, output: shapes.append(output.shape)
        )
    answer(network, picture())
    assert len(shapes) == len(network.stages())
    assert all(len(shape) == 4 and shape[0] == 2 for shape in shapes)


def test_describe_names_every_network() -> None:
    infos = describe()
    assert [info.name for info in infos] == list(NETWORKS)
    for info in infos:
        build(Architecture(network=info.name, config=info.config))
        assert info.summary


def test_unknown_name_suggests() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'lydite-small'.*paper-baseline"):
        build(Architecture(network="lydite-smal"))


@pytest.mark.parametrize(
    ("name", "size", "use"),
    [("paper-baseline", 32, 64), ("paper-baseline", 100, 96), ("lydite-small", 65, 64)],
)
def test_input_size_is_checked(name: str, size: int, use: int) -> None:
    with pytest.raises(ConfigError, match=rf"`size` of {name} .* Got {size}. Use {use}"):
        build(Architecture(network=name, input_size=size))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("paper-baseline", {"droput": 0.5}),
        ("paper-baseline", {"dropout": 1.0}),
        ("lydite-small", {"width": [8]}),
        ("lydite-small", {"widths": []}),
        ("lydite-small", {"widths": [10**9]}),
        ("lydite-small", {"residual": "srm"}),
        ("lydite-small", {"blocks": -1}),
    ],
)
def test_config_is_checked(name: str, config: dict[str, object]) -> None:
    with pytest.raises(
        ConfigError, match=f"`config` of {name} is not valid. `{next(iter(config))}"
    ):
        build(Architecture(network=name, config=config))
