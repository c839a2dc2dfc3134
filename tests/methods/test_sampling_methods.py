"""What the sampling methods promise beyond what holds for every method."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rdbench.benchmark.cost import count_passes
from rdbench.errors import InputError
from rdbench.rd.anomaly import anomaly_map, distillation_loss
from rdbench.rd.backbones import get_backbone
from rdbench.rd.student import Student, build_student
from rdbench.uq.batchnorm import batch_statistics
from rdbench.uq.checkpoints import load_student
from rdbench.uq.laplace import (
    draw_weights,
    error_variances,
    fisher_diagonal,
    last_convolutions,
    posterior_deviation,
    prior_precision,
    unit_norm,
)
from rdbench.uq.swag import WeightMoments, set_weights


def features_of(images):
    return images.batch(list(range(len(images)))).features


def flat(network):
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        ("mc_dropout", {"placement": "decoder", "kind": "block"}, (4, 4, 12)),
        ("mc_dropout", {"placement": "all", "kind": "element", "concrete": True}, (4, 12, 12)),
        ("mc_batchnorm", {"batch": 3}, (4, 12, 12)),
        ("swag", {}, (4, 12, 12)),
        ("laplace", {"draws": 1}, (4, 4, 12)),
        ("noise_tta", {}, (4, 12, 12)),
    ],
)
def test_passes_of_four_images(name, options, passes, world, tmp_path):
    method = world.fitted(name, tmp_path, samples=3, **options)
    with count_passes() as counted:
        prediction = world.predict(method)
    assert (counted["teacher"], counted["bottleneck"], counted["decoder"]) == passes
    assert (prediction.member_scores.std(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("name", "options"), [("mc_dropout", {"kind": "block"}), ("laplace", {"draws": 1}), ("noise_tta", {})]
)
def test_more_samples_keep_the_first_ones(name, options, world, tmp_path):
    few = world.fitted(name, tmp_path, samples=2, **options)
    many = world.predict(world.loaded(name, tmp_path, samples=4, **options))
    assert torch.equal(many.member_scores[:2], world.predict(few).member_scores)


@pytest.mark.parametrize(("name", "options"), [("mc_batchnorm", {"batch": 3}), ("swag", {})])
def test_fitting_more_samples_keeps_the_first_ones(name, options, world, tmp_path_factory):
    few, many = (
        world.predict(world.fitted(name, tmp_path_factory.mktemp(name), samples=samples, **options))
        for samples in (2, 3)
    )
    assert torch.equal(many.member_scores[:2], few.member_scores)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mc_dropout", {"block_size": 0}, "block_size must be at least 1, got 0"),
        ("mc_dropout", {"p": 0.0, "concrete": True}, "p must be above 0"),
        ("mc_batchnorm", {"batch": 0}, "batch must be at least 1, got 0"),
        ("swag", {"epochs": 0.0}, "epochs must be above 0, got 0"),
        ("swag", {"rank": 1}, "rank must be 0 or at least 2, got 1"),
        ("swag", {"samples": 0}, "samples must be at least 1, got 0"),
        ("laplace", {"draws": 0}, "draws must be at least 1, got 0"),
        ("noise_tta", {"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ("noise_tta", {"noise": float("nan")}, "noise must be"),
    ],
)
def test_options_out_of_range(name, options, message, world):
    with pytest.raises(InputError, match=message):
        world.method(name, **options)


@pytest.mark.parametrize("name", ["mc_batchnorm", "swag", "laplace", "noise_tta"])
def test_the_shared_student_stays_as_it_is(name, world, tmp_path):
    before = copy.deepcopy(world.student.state_dict())
    world.fitted(name, tmp_path, samples=1, **({"batch": 3} if name == "mc_batchnorm" else {}))
    assert all(torch.equal(value, before[key]) for key, value in world.student.state_dict().items())
    assert not world.student.training
    assert not any(parameter.requires_grad for parameter in world.student.parameters())


# mc_dropout


@pytest.mark.parametrize("kind", ["element", "channel", "block"])
@pytest.mark.parametrize("placement", ["bottleneck", "all"])
def test_dropping_nothing_is_deterministic(kind, placement, world, deterministic, tmp_path):
    options = {"p": 0.0, "placement": placement, "kind": kind, "samples": 2}
    prediction = world.predict(world.fitted("mc_dropout", tmp_path, **options))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    assert not prediction.uncertainty.any()


@pytest.mark.parametrize("kind", ["element", "channel", "block"])
def test_concrete_p_is_learned_and_kept(kind, world, tmp_path):
    method = world.fitted("mc_dropout", tmp_path, p=0.2, placement="all", kind=kind, concrete=True, samples=2)
    rates = method.dropout.rates()
    assert len(rates) == 2 + 2 + 6  # features, embedding; blocks of the bottleneck, of the decoder
    assert ((rates > 0) & (rates < 1)).all()
    assert (rates - 0.2).abs().min() > 1e-4


@pytest.mark.parametrize("concrete", [True, False])
def test_concrete_p_is_trained_under_its_own_loss(concrete, world):
    losses = []

    def train(student, images, seed, *, loss):
        losses.append(loss)
        return world.context.train(student, images, seed, loss=loss)

    method = world.method("mc_dropout", placement="embedding", concrete=concrete)
    method.fit(world.train, replace(world.context, train=train))
    if not concrete:
        assert losses == [None]
        return
    features = features_of(world.test)
    with torch.no_grad():
        pyramid = world.student(features)
        found, plain = losses[0](features, pyramid).item(), distillation_loss(features, pyramid).item()
    (p,), (width,) = method.dropout.rates().tolist(), method.dropout.widths
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert found == pytest.approx(plain - 2 * plain / 3 / len(world.train) * width * entropy, rel=1e-4)


# mc_batchnorm


def test_all_training_images_as_the_batch_are_the_deterministic_student_with_exact_statistics(world, tmp_path):
    """Exact: each layer's mean and biased variance over all training images, behind layers normalised likewise."""
    count = len(world.train)
    prediction = world.predict(world.fitted("mc_batchnorm", tmp_path, batch=count, samples=2))
    # Torch's own way there: one training pass over all images at momentum 1, its unbiased variance made biased again.
    student = copy.deepcopy(world.student).train()
    sizes = {}
    for layer in student.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            layer.register_forward_hook(
                lambda module, inputs, _: sizes.update({module: inputs[0].numel() // inputs[0].shape[1]})
            )
    with torch.no_grad():
        student(features_of(world.train))
        for layer, size in sizes.items():
            layer.running_var *= (size - 1) / size
        batch = world.test.batch([0, 1, 2, 3])
        maps = anomaly_map(batch.features, student.eval()(batch.features), (64, 64))
    assert len(sizes) == sum(isinstance(layer, nn.BatchNorm2d) for layer in student.modules())
    torch.testing.assert_close(prediction.anomaly_map, maps, rtol=1e-4, atol=1e-5)
    assert not prediction.uncertainty.any()  # the same images in whatever order are one network


def test_batch_statistics_give_a_batch_what_train_mode_gives_it(world):
    features = features_of(world.train)
    with torch.no_grad():
        statistics = batch_statistics(world.student, features)
        seen = torch.func.functional_call(world.student, statistics, (features,))
        wanted = copy.deepcopy(world.student).train()(features)
    for one, other in zip(seen, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_more_images_than_there_are_make_no_batch(world, tmp_path):
    with pytest.raises(InputError, match="batch 7 is more than the 6 training images"):
        world.fitted("mc_batchnorm", tmp_path, batch=7)


# swag


def iterates(count, seed=0):
    """A tiny network at `count` places, one after the other, and what it was there."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    kept = []
    for _ in range(count):
        for parameter in network.parameters():
            parameter.data += torch.randn(parameter.shape)
        kept.append(flat(network))
        yield network, np.array(kept)


@pytest.mark.parametrize("rank", [0, 2, 3])
def test_swag_moments_are_those_of_the_iterates(rank):
    moments = WeightMoments(rank)
    means = []
    for network, kept in iterates(5):
        moments.add(network)
        means.append(kept.mean(axis=0))
    np.testing.assert_allclose(moments.mean, kept.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance(), (kept**2).mean(axis=0) - kept.mean(axis=0) ** 2, rtol=1e-4)
    deviations = (kept - np.array(means))[5 - rank :]
    assert len(moments.deviations) == rank
    for one, other in zip(moments.deviations, deviations, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 3])
def test_swag_samples_have_half_the_diagonal_and_half_the_low_rank(rank):
    moments = WeightMoments(rank)
    for network, _ in iterates(6):
        moments.add(network)
    drawn = np.array([moments.sample(seed).numpy() for seed in range(4000)])
    wanted = np.diag(moments.variance())
    if rank:
        low = np.array([d.numpy() for d in moments.deviations])
        wanted = wanted / 2 + low.T @ low / (2 * (rank - 1))
    np.testing.assert_allclose(drawn.mean(axis=0), moments.mean, atol=0.15)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    np.testing.assert_allclose(np.cov(drawn.T) / scale, wanted / scale, atol=0.08)


def test_swag_weights_go_back_where_they_came_from(world):
    student = copy.deepcopy(world.student)
    moments = WeightMoments(0)
    moments.add(student)
    other = build_student(get_backbone("embedded"), 5).to(memory_format=torch.channels_last)
    set_weights(other, moments.mean)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), student.parameters(), strict=True))


def test_swag_batch_norm_is_refitted_on_training_features(world, tmp_path):
    method = world.fitted("swag", tmp_path, samples=2, epochs=1.0)
    with torch.no_grad():
        for student in method.students:
            # Six images are one batch of the refit: its statistics are exact but for torch's unbiased variance.
            exact = batch_statistics(student, features_of(world.train))
            for name, value in exact.items():
                torch.testing.assert_close(student.get_buffer(name), value, rtol=0.05, atol=1e-4)
    first, second = (flat(student) for student in method.students)
    assert not np.array_equal(first, second)


def test_swag_starts_from_the_deterministic_student(world, tmp_path):
    """At a rate of next to nothing every iterate is the deterministic student, and so is every sample."""
    method = world.fitted("swag", tmp_path, samples=1, rate=1e-9)
    np.testing.assert_allclose(flat(method.students[0]), flat(world.student), atol=1e-6)


def test_swag_takes_an_iterate_after_every_epoch(world, monkeypatch):
    """Samples are drawn about the mean of the deterministic student and of what it is after each further epoch."""
    monkeypatch.setattr(WeightMoments, "sample", lambda moments, seed: moments.mean)
    kept = [flat(world.student)]

    def train(student, images, seed, *, after_epoch=None, **options):
        def keep(epoch, epochs):
            kept.append(flat(student))
            if after_epoch is not None:
                after_epoch(epoch, epochs)

        return world.context.train(student, images, seed, after_epoch=keep, **options)

    method = world.method("swag", samples=1, epochs=1.5)
    method.fit(world.train, replace(world.context, train=train))
    assert len(kept) == 1 + 3
    np.testing.assert_allclose(flat(method.students[0]), np.mean(kept, axis=0), rtol=1e-4, atol=1e-6)


# laplace


class Tiny(nn.Module):
    """Two "scales" of unit norm from one linear map of the input: (B, 3) -> (B, 4), (B, 2)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x):
        hidden = self.first(x).tanh()
        return unit_norm([hidden, self.second(hidden)])


def test_curvature_is_that_of_the_jacobian():
    tiny, variances = Tiny(), [0.5, 0.02]
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    weights = dict(tiny.named_parameters())

    def outputs(values, x):
        return torch.func.functional_call(tiny, values, (x,))

    found = fisher_diagonal(outputs, weights, inputs.split(4), variances, draws=4000, seed=0)
    for name in weights:
        wanted = torch.zeros_like(weights[name])
        for x in inputs.split(1):
            for scale, variance in enumerate(variances):

                def one(value, x=x, scale=scale, name=name):
                    return outputs({**weights, name: value}, x)[scale][0]

                jacobian = torch.autograd.functional.jacobian(one, weights[name].detach())
                wanted += jacobian.square().sum(dim=0) / variance
        torch.testing.assert_close(found[name], wanted, rtol=0.1, atol=0.02 * wanted.max().item())


def test_curvature_of_one_output_is_exact_after_one_draw():
    inputs = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    found = fisher_diagonal(lambda w, x: [x @ w["w"]], {"w": torch.zeros(2, 1)}, inputs.split(1), [0.25], 1, 0)
    assert found["w"].flatten().tolist() == [40, 80]  # sum of x^2 over a variance of 1/4


def test_error_variance_is_the_mean_squared_difference(world):
    student = world.student
    with torch.no_grad():
        batches = [(b.features, student(b.features)) for b in world.train.batches(4)]  # 4 and 2 images
        found = error_variances((unit_norm(t), unit_norm(s)) for t, s in batches)
    for scale, variance in enumerate(found):
        teacher, other = (torch.cat([b[side][scale] for b in batches]).flatten(1).numpy() for side in (0, 1))
        norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (teacher, other)]
        error = teacher / norms[0] - other / norms[1]
        assert variance == pytest.approx((error**2).mean(), rel=1e-4)
        cosine = (teacher * other).sum(axis=1) / (norms[0] * norms[1])[:, 0]
        assert variance == pytest.approx(2 * (1 - cosine).mean() / error.shape[1], rel=1e-3)


def test_prior_precision_maximises_the_marginal_likelihood():
    rng = np.random.default_rng(0)
    fisher, weights = rng.gamma(0.5, 20, 300), rng.normal(0, 0.3, 300)
    found = prior_precision(torch.from_numpy(fisher), torch.from_numpy(weights))

    def evidence(precision):
        return np.log(precision / (fisher + precision)).sum() - precision * (weights**2).sum()

    grid = found * np.exp(np.linspace(-3, 3, 601))
    assert abs(np.log(grid[np.argmax([evidence(precision) for precision in grid])] / found)) < 0.011


def test_laplace_spread_shrinks_as_the_prior_precision_grows():
    mean, fisher = {"w": torch.zeros(2000)}, torch.rand(2000, generator=torch.Generator().manual_seed(0))
    spreads = [
        draw_weights(mean, {"w": posterior_deviation(fisher, precision)}, 1)["w"].std().item()
        for precision in (0.01, 1, 100, 1e12)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[2] == pytest.approx(0.1, rel=0.05)
    assert spreads[3] < 1e-5


def test_laplace_posterior_has_the_likeliest_prior_precision(world):
    """MacKay: at the maximum it is N / sum(w^2 + s^2), for N weights w of posterior deviation s."""
    method = world.method("laplace", draws=1)
    method.fit(world.train, world.context)
    decoder, bottleneck = world.student.decoder, world.student.bottleneck
    mean = {name: decoder.get_parameter(name) for name in last_convolutions(decoder)}
    features = features_of(world.train)
    with torch.no_grad():
        embedding = bottleneck(features)
        variances = error_variances([(unit_norm(features), unit_norm(decoder(embedding)))])

    def outputs(weights, embedding):
        return unit_norm(torch.func.functional_call(decoder, dict(weights), (embedding,)))

    fisher = fisher_diagonal(outputs, mean, [embedding], variances, 1, world.context.seed)
    for name, weight in mean.items():
        spread = method.deviation[name]
        precision = weight.numel() / (weight.square() + spread.square()).double().sum().item()
        torch.testing.assert_close(spread, (fisher[name] + precision).rsqrt(), rtol=1e-3, atol=0)


def test_laplace_without_spread_is_deterministic(world, deterministic, tmp_path):
    method = world.fitted("laplace", tmp_path, samples=2, draws=1)
    decoder = load_student(tmp_path / "student.safetensors", world.context).decoder
    none = {name: torch.zeros_like(decoder.get_parameter(name)) for name in last_convolutions(decoder)}
    method.weights = [draw_weights({n: decoder.get_parameter(n) for n in none}, none, 0)] * 2
    assert torch.equal(world.predict(method).anomaly_map, deterministic.anomaly_map)


@pytest.mark.parametrize(("backbone", "last"), [("embedded", "conv2"), ("resnet50", "conv3")])
def test_laplace_weights_are_the_last_before_each_output(backbone, last):
    with torch.device("meta"):
        decoder = Student(get_backbone(backbone)).decoder
    names = last_convolutions(decoder)
    assert [name.split(".")[0] for name in names] == ["coarse", "middle", "fine"]
    convolutions = [n for n, m in decoder.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    for name in names:
        stage = [n for n in convolutions if n.startswith(name.split(".")[0])]
        assert name == f"{stage[-1]}.weight"
        assert name.endswith(f"{last}.weight")


# noise_tta


def test_no_noise_is_deterministic(world, deterministic, tmp_path):
    prediction = world.predict(world.fitted("noise_tta", tmp_path, noise=0.0, samples=3))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert not prediction.uncertainty.any()


def test_noise_is_relative_to_each_channel_over_the_training_images(world, tmp_path):
    method = world.fitted("noise_tta", tmp_path, noise=0.5, samples=1)
    for scale, std in zip(features_of(world.train), method.deviations, strict=True):
        wanted = scale.numpy().astype("f8").std(axis=(0, 2, 3))
        np.testing.assert_allclose(std, wanted, rtol=1e-5, atol=1e-7)
    seen = []
    method.student.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    world.predict(method)
    batch = world.test.batch([0, 1, 2, 3])
    for noisy, scale, std in zip(seen[0], batch.features, method.deviations, strict=True):
        noise = noisy - scale
        torch.testing.assert_close(noise[0], noise[3], atol=1e-5, rtol=0)  # one pattern for all images
        ratio = noise[0].std(dim=(1, 2)) / std.clamp_min(1e-9)
        assert ratio[std > 1e-3].mean().item() == pytest.approx(0.5, rel=0.1)


def test_more_noise_is_more_uncertain(world, tmp_path):
    world.fitted("noise_tta", tmp_path, samples=5)
    little, much = (
        world.predict(world.loaded("noise_tta", tmp_path, noise=noise, samples=5)).uncertainty for noise in (0.01, 0.3)
    )
    assert (much > little).all()
