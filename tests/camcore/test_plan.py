"""The planner: which method, in which way, or why not, before any image is seen."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from numpy_network import PooledNetwork, values

from camcore import METHODS, HeadNotFound, InputError, LinearHead, Method, MethodNotPossible, NormHead, Tap
from camcore.plan import alike, costs, make_plan, obstacle, possible

GIVES = frozenset({"features", "head", "tail", "model"})
ALL = GIVES | {"gradients", "curvature", "contributions", "second_weight"}
NORM = NormHead(values(5, 4), values(5, seed=1))


def network(gives: frozenset[str] = GIVES, head: Any = None) -> PooledNetwork:
    return PooledNetwork(gives=gives, head=head or LinearHead(values(5, 4)))


class TestAuto:
    def test_it_is_cam_where_there_is_a_head(self) -> None:
        plan = make_plan("auto", network())
        assert plan.method.name == "cam"
        assert plan.layer is None
        assert plan.tap.layer == "relu"
        assert plan.target.plain
        assert plan.way == "closed form"

    @pytest.mark.parametrize(("gives", "head", "layer"), [(GIVES, NORM, None), (ALL, None, "images")])
    def test_else_gradcam(self, gives: frozenset[str], head: Any, layer: str | None) -> None:
        assert make_plan("auto", network(gives, head), [layer]).method.name == "gradcam"

    @pytest.mark.parametrize("aim", ["probability", "difference", lambda scores: scores[:, 0]])
    def test_also_for_a_target_that_cam_does_not_explain(self, aim: Any) -> None:
        plan = make_plan("auto", network(), aim=aim)
        assert plan.method.name == "gradcam"
        assert plan.way == "closed form"

    def test_the_logit_is_what_cam_explains(self) -> None:
        assert make_plan("auto", network(), aim="logit").method.name == "cam"

    def test_it_has_no_options(self) -> None:
        text = "options ['kernel', 'seed'] are of one method; name it, since method 'auto' has none"
        with pytest.raises(InputError, match=re.escape(text)):
            make_plan("auto", network(), options={"seed": 1, "kernel": "rbf"})

    def test_where_nothing_works_what_stands_in_the_way_is_named(self) -> None:
        text = (
            "gradcam is not possible at 'images': it needs gradients of the network behind the layer, which numpy "
            "models do not give. Nor is there a closed form: the layer 'relu' is not linear. Methods that work here: "
        )
        with pytest.raises(MethodNotPossible, match=re.escape(text)):
            make_plan("auto", network(), ["images"])


class TestWays:
    @pytest.mark.parametrize("name", METHODS)
    def test_a_linear_head_needs_no_runs_but_those_of_the_whole_model(self, name: str) -> None:
        route = make_plan(name, network(ALL)).routes[0]
        assert route.way == ("model runs" if "model" in METHODS[name].needs else "closed form")

    @pytest.mark.parametrize(
        ("name", "way"),
        [
            ("gradcam", "gradient"),
            ("shapleycam", "gradient"),
            ("smoothgradcam++", "gradient"),
            ("eigengradcam", "gradient"),
            ("ablationcam", "tail runs"),
            ("liftcam", "contributions"),
            ("reciprocam", "tail runs"),
            ("scorecam", "model runs"),
            ("groupcam", "model runs"),
            ("activationmap", "closed form"),
            ("random", "closed form"),
        ],
    )
    def test_without_a_head_the_network_runs(self, name: str, way: str) -> None:
        plan = make_plan(name, network(ALL), ["images"])
        assert plan.way == way
        assert not plan.routes[0].closed

    @pytest.mark.parametrize("name", ["gradcam", "gradcam++", "shapleycam", "ablationcam", "reciprocam", "groupcam"])
    def test_a_normalising_head_has_a_closed_form_too(self, name: str) -> None:
        assert make_plan(name, network(head=NORM)).routes[0].closed

    def test_several_layers_have_a_way_each(self) -> None:
        plan = make_plan("ablationcam", network(ALL), ["relu", "images"])
        assert [(r.layer, r.way) for r in plan.routes] == [("relu", "closed form"), ("images", "tail runs")]
        assert plan.way == "closed form, tail runs"

    @pytest.mark.parametrize("name", ["gradcam", "shapleycam", "smoothgradcam++"])
    def test_where_one_layer_needs_a_backward_pass_it_gives_the_gradients_of_all(self, name: str) -> None:
        plan = make_plan(name, network(ALL), ["relu", "images"])
        assert [(r.way, r.closed) for r in plan.routes] == [("gradient", False)] * 2
        assert plan.way == "gradient"

    def test_a_head_that_is_not_trusted_is_not_used(self) -> None:
        plan = make_plan("gradcam", network(ALL), distrust="it differs by 0.5")
        assert (plan.way, plan.tap.head, plan.tap.how) == ("gradient", None, "")
        with pytest.raises(HeadNotFound, match=r"cam is not possible at 'relu': it differs by 0\.5"):
            make_plan("cam", network(ALL), distrust="it differs by 0.5")
        with pytest.raises(MethodNotPossible, match=r"Nor is there a closed form: it differs by 0\.5"):
            make_plan("gradcam", network(), distrust="it differs by 0.5")

    def test_an_example_is_handed_to_the_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(
            PooledNetwork, "tap", lambda self, layer=None, example=None: seen.append(example) or Tap("")
        )
        make_plan("activationmap", network(), example="a batch")
        assert seen == ["a batch"]


class TestTargets:
    def test_each_method_has_its_own(self) -> None:
        assert make_plan("shapleycam", network()).target.name == "rest"
        assert make_plan("finercam", network()).target.name == "finer"
        assert make_plan("gradcam", network()).target.name == "logit"

    def test_the_users_comes_first(self) -> None:
        plan = make_plan("shapleycam", network(), aim="difference:3")
        assert plan.target.name == plan.sloped.name == "difference:3"

    def test_groupcam_takes_the_gradients_of_the_score_whatever_is_explained(self) -> None:
        plan = make_plan("groupcam", network())
        assert (plan.target.name, plan.sloped.name) == ("probability", "logit")

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("cam", "is made of the weights of a class"),
            ("eigencam", "looks at no score"),
            ("random", "looks at no score"),
        ],
    )
    def test_methods_that_know_none(self, name: str, why: str) -> None:
        text = f"target 'probability' has no effect on {name}, which {why}; take gradcam for it"
        with pytest.raises(InputError, match=re.escape(text)):
            make_plan(name, network(), aim="probability")
        assert make_plan(name, network(), aim="logit").target.plain

    def test_a_target_that_bends_needs_the_noise_of_smoothgradcam(self) -> None:
        assert make_plan("smoothgradcam++", network(ALL)).way == "closed form"
        assert make_plan("smoothgradcam++", network(ALL), aim="difference").way == "closed form"
        assert make_plan("smoothgradcam++", network(ALL), aim="probability").way == "gradient"
        text = (
            "smoothgradcam++ is not possible at 'relu': it needs gradients of the network behind the layer, which "
            "numpy models do not give. Nor is there a closed form: the slopes of the target 'probability' change with "
            "the image. Methods that work here: cam, "
        )
        with pytest.raises(MethodNotPossible, match=re.escape(text)):
            make_plan("smoothgradcam++", network(), aim="probability")
        with pytest.raises(
            MethodNotPossible, match=r"Nor is there a closed form: the head \(mean -> linear\) normalises"
        ):
            make_plan("smoothgradcam++", network(head=NORM))


class TestRefusals:
    def test_without_a_head_the_obstacle_and_what_works_are_named(self) -> None:
        text = (
            "cam is not possible at 'images': the layer 'relu' is not linear. Methods that work here: ablationcam, "
            "reciprocam, activationmap, fem, random, "
        )
        with pytest.raises(HeadNotFound, match=re.escape(text)):
            make_plan("cam", network(), ["images"])

    def test_the_layer_that_stands_in_the_way_is_named_out_of_several(self) -> None:
        with pytest.raises(HeadNotFound, match="cam is not possible at 'images': the layer 'relu' is not linear"):
            make_plan("cam", network(), ["relu", "images"])

    @pytest.mark.parametrize(
        ("name", "gives", "text"),
        [
            ("gradcam", {"features"}, "it needs gradients of the network behind the layer, which numpy models do not"),
            (
                "reciprocam",
                {"features"},
                "it needs runs of the network behind the layer, which numpy models do not give",
            ),
            ("scorecam", {"features"}, "it needs runs of the whole network, which numpy models do not give. Methods"),
            ("shapleycam", {"features"}, "it needs gradients of the network behind the layer, which numpy models do"),
            ("shapleycam", {"features", "gradients"}, "it needs curvature, which numpy models do not give"),
            ("liftcam", {"features"}, "it needs DeepLIFT passes through the network behind the layer, which numpy"),
            ("groupcam", {"features"}, "it needs gradients of the network behind the layer and runs of the whole"),
            ("cam", {"head"}, "the layer 'relu' is not linear"),
        ],
    )
    def test_what_the_backend_cannot_give_is_named(self, name: str, gives: set[str], text: str) -> None:
        with pytest.raises(MethodNotPossible, match=re.escape(f"{name} is not possible at 'images': {text}")) as caught:
            make_plan(name, network(frozenset(gives)), ["images"])
        assert isinstance(caught.value, HeadNotFound) == (name == "cam")

    @pytest.mark.parametrize("layer", ["relu", "images"])
    @pytest.mark.parametrize("aim", ["probability", "rest", lambda scores: scores[:, 0]])
    def test_liftcam_explains_what_is_linear_in_the_scores(self, layer: str, aim: Any) -> None:
        text = f"liftcam is not possible at '{layer}': it shares the target out among the channels by DeepLIFT"
        with pytest.raises(MethodNotPossible, match=text) as caught:
            make_plan("liftcam", network(ALL), [layer], aim=aim)
        assert "is not. Take target 'logit', 'difference' or 'finer'. Methods that work here: " in str(caught.value)
        for linear in ("logit", "difference", "difference:1", "finer"):
            assert make_plan("liftcam", network(ALL), [layer], aim=linear).routes[0].closed == (layer == "relu")

    def test_a_normalising_head_has_no_contributions(self) -> None:
        assert not make_plan("liftcam", network(ALL, NORM)).routes[0].closed
        text = r"DeepLIFT passes .* Nor is there a closed form: the head \(mean -> linear\) normalises"
        with pytest.raises(MethodNotPossible, match=text):
            make_plan("liftcam", network(head=NORM))

    def test_where_nothing_works_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("camcore.plan.METHODS", {"cam": METHODS["cam"]})
        with pytest.raises(HeadNotFound, match=r"No method works on this model\.$"):
            make_plan("cam", network(), ["images"])

    def test_unknown_names(self) -> None:
        with pytest.raises(InputError, match=r"method 'cams' is not known\. Did you mean 'cam'"):
            make_plan("cams", network())
        with pytest.raises(InputError, match=r"layer 'rely' is not known\. Did you mean 'relu'\?"):
            make_plan("cam", network(), ["rely"])
        with pytest.raises(InputError, match=r"target 'logits' is not known\. Did you mean 'logit'"):
            make_plan("gradcam", network(), aim="logits")
        with pytest.raises(InputError, match=r"method 'fem' has no option 'zed'\. "):
            make_plan("fem", network(), options={"zed": 3})

    def test_every_method_with_what_stands_in_its_way(self) -> None:
        assert set(possible(network(ALL))) == set(METHODS)
        assert not any(possible(network(ALL)).values())
        assert [name for name, why in possible(network()).items() if why] == ["recam"]
        there = possible(network(), "images")
        assert there["cam"] == "the layer 'relu' is not linear."
        assert "needs gradients" in there["gradcam"]
        assert there["activationmap"] == there["ablationcam"] == ""

    def test_an_obstacle_is_that_of_a_tap(self) -> None:
        bare = Tap("x", None, obstacle="no head.")
        assert obstacle(METHODS["activationmap"], bare, network()) == ""
        assert obstacle(METHODS["cam"], bare, network()) == "no head."
        assert obstacle(METHODS["gradcam"], Tap("x"), network()) == (
            "it needs gradients of the network behind the layer, which numpy models do not give."
        )


E1 = {"cam", "gradcam", "xgradcam", "hirescam", "reciprocam"}
E2 = {"layercam", "gradcam-elementwise"}


class TestAlike:
    def alike(self, name: str, head: Any = None, layers: Any = (None,), aim: Any = None, **options: Any) -> set[str]:
        return set(make_plan(name, network(ALL, head), layers, aim=aim, options=options).alike)

    @pytest.mark.parametrize("name", sorted(E1))
    def test_the_kin_of_cam(self, name: str) -> None:
        assert self.alike(name) == E1 - {name}  # by themselves shapleycam and finercam explain something else
        assert self.alike(name, aim="logit") == (E1 | {"shapleycam", "finercam"}) - {name}

    def test_those_with_a_target_of_their_own(self) -> None:
        assert self.alike("shapleycam") == set()
        assert self.alike("shapleycam", aim="logit") == E1 | {"finercam"}
        assert self.alike("finercam") == set()

    @pytest.mark.parametrize(
        ("name", "options", "same"),
        [
            ("layercam", {}, {"gradcam-elementwise"}),
            ("gradcam++", {"variant": "official"}, E2),
            ("gradcam++", {}, {"smoothgradcam++"}),
            ("smoothgradcam++", {}, {"gradcam++"}),
            ("ablationcam", {}, {"liftcam"}),
            ("liftcam", {}, {"ablationcam"}),
            ("ablationcam", {"relative": True}, set()),
            ("reciprocam", {"kernel": "gaussian"}, set()),
            ("eigengradcam", {}, set()),
            ("activationmap", {}, set()),
            ("groupcam", {}, set()),
        ],
    )
    def test_the_other_groups(self, name: str, options: dict[str, Any], same: set[str]) -> None:
        assert self.alike(name, **options) == same

    @pytest.mark.parametrize("aim", ["difference", "difference:2"])
    def test_a_linear_target_keeps_those_that_explain_it(self, aim: str) -> None:
        assert self.alike("gradcam", aim=aim) == {"xgradcam", "hirescam", "finercam", "shapleycam", "reciprocam"}
        assert self.alike("gradcam++", aim=aim) == {"smoothgradcam++"}
        assert self.alike("ablationcam", aim=aim) == {"liftcam"}
        assert self.alike("liftcam", aim=aim) == {"ablationcam"}

    @pytest.mark.parametrize("aim", ["probability", "rest", lambda scores: scores[:, 0] ** 2])
    def test_one_that_bends_keeps_those_made_of_its_gradient(self, aim: Any) -> None:
        assert self.alike("gradcam", aim=aim) == {"xgradcam", "hirescam", "finercam"}
        assert self.alike("reciprocam", aim=aim) == set()
        assert self.alike("shapleycam", aim=aim) == set()
        assert self.alike("layercam", aim=aim) == {"gradcam-elementwise"}
        assert self.alike("gradcam++", aim=aim) == set()

    def test_only_on_a_linear_head_at_one_layer(self) -> None:
        assert self.alike("gradcam", head=NORM) == set()
        assert self.alike("gradcam", layers=["images"]) == set()
        assert self.alike("gradcam", layers=["relu", "relu"]) == set()

    def test_not_where_the_head_is_not_what_made_the_map(self) -> None:
        plan = make_plan("gradcam", network(ALL))
        routes = [replace(plan.routes[0], closed=False)]
        assert alike(plan.method, plan.target, routes, given=False) == ()


class TestWords:
    def test_a_plan_says_what_will_be_done(self) -> None:
        assert str(make_plan("activationmap", network(), ["images"])) == (
            "activationmap at images: closed form, one forward pass"
        )
        assert str(make_plan("layercam", network(ALL), ["relu", "images"])) == (
            "layercam at relu, images, head mean -> linear: gradient, one forward pass, and a backward pass of the tail"
        )
        assert str(make_plan("ablationcam", network())) == (
            "ablationcam at relu, head mean -> linear: closed form, one forward pass; the same map here as liftcam"
        )

    @pytest.mark.parametrize(
        ("name", "cost"),
        [
            ("cam", "one forward pass"),
            ("gradcam", "one forward pass, and a backward pass of the tail"),
            ("smoothgradcam++", "one forward pass, and 4 forward and backward passes of noisy copies"),
            ("ablationcam", "one forward pass, and one tail run a channel"),
            ("liftcam", "one forward pass, and a DeepLIFT pass of the tail"),
            ("reciprocam", "one forward pass, and one tail run a position"),
            ("scorecam", "one forward pass, and one forward pass a channel"),
            ("groupcam", "one forward pass, and a backward pass of the tail, and one forward pass a group"),
        ],
    )
    def test_what_an_image_costs(self, name: str, cost: str) -> None:
        layer = "relu" if name == "cam" else "images"
        assert make_plan(name, network(ALL), [layer]).cost == cost
        free, elsewhere = costs(METHODS[name])
        assert elsewhere == (
            "-" if name == "cam" else cost.removeprefix("one forward pass, and ").replace(", and", ",")
        )
        assert free == ("" if "model" not in METHODS[name].needs else cost.split(", and ")[-1])

    def test_costs_fit_a_terminal(self) -> None:
        for layer in ("relu", "images"):
            for name in (n for n, why in possible(network(ALL), layer).items() if not why):
                plan = make_plan(name, network(ALL), [layer])
                assert len(plan.cost) <= 80
                assert plan.cost in str(plan)

    def test_a_method_of_ones_own_may_lack_a_number_of_samples(self) -> None:
        own = Method("own", lambda **given: None, frozenset({"features", "moments"}), True, "", "")  # type: ignore[arg-type, return-value]
        assert "several forward and backward passes" in make_plan(own, network(ALL), ["images"]).cost
