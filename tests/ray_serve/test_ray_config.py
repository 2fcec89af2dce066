"""The deployments that settings become, and the Serve config file, by Ray's own schemas."""

import warnings
from importlib.util import find_spec
from types import ModuleType

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve import PrefixRouter, PromptPages, hash_prompt
from server.ray.forwarding import ForwardedRequest
from tests.sources import REPO

if find_spec("ray") is None:
    pytest.skip("Ray is not installed here: pip install 'ray[serve]'", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Ray's own modules, about what pydantic will remove
    from ray.serve.schema import ServeDeploySchema

    from jaxserve import ray as application
    from server.ray import request_router

CONFIG = yaml.safe_load((REPO / "scripts" / "deploy" / "ray" / "jaxserve.yaml").read_text(encoding="utf-8"))
NAMES = ["a", "b", "c"]


def read_options(**arguments) -> dict:
    return application.make_engine_options(application.read_settings(arguments, {}))


def test_the_config_file_has_the_form_of_ray_serve():
    schema = ServeDeploySchema.model_validate(CONFIG)
    [app] = schema.applications
    assert app.model_dump(exclude_unset=True) == CONFIG["applications"][0] | {"deployments": app.deployments and [
        deployment.model_dump(exclude_unset=True) for deployment in app.deployments
    ]}  # fmt: skip
    module, _, name = app.import_path.partition(":")
    assert isinstance(application, ModuleType) and module == application.__name__ and hasattr(application, name)


def test_the_config_file_s_arguments_and_deployments_are_ours():
    [app] = CONFIG["applications"]
    settings = application.read_settings(app["args"], {})
    built = application.build(settings)
    deployments = {deployment["name"]: deployment for deployment in app["deployments"]}
    assert deployments.keys() <= {"Engine", "Ingress"} and built._bound_deployment.name == "Ingress"
    scaling, ours = deployments["Engine"]["autoscaling_config"], read_options(**app["args"])["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (ours.min_replicas, ours.max_replicas)
    assert scaling["policy"]["policy_function"] == ours.policy.policy_function


def test_the_policy_can_be_called():
    policy = read_options(max_replicas=2)["autoscaling_config"].policy.get_policy()
    assert policy.__name__ == "choose_num_replicas"


def test_a_fixed_number_of_replicas_is_not_autoscaled():
    assert read_options(min_replicas=2, max_replicas=2)["num_replicas"] == 2
    scaling = read_options(min_replicas=0, max_replicas=3, max_num_seqs=8)["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas, scaling.get_target_ongoing_requests()) == (0, 3, 8)


def test_engines_drain_before_the_ingress_ends():
    built = application.app({"drain_timeout_s": 40})
    options = read_options(drain_timeout_s=40)
    assert options["graceful_shutdown_timeout_s"] == 40
    assert built._bound_deployment._deployment_config.graceful_shutdown_timeout_s > 40


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.fixed_dictionaries({name: st.integers(0, 5) for name in NAMES}),
    st.sets(st.sampled_from(NAMES)),
)
def test_replicas_that_have_failed_are_asked_last(prompt_ids, lengths, avoided):
    router, prompt = PrefixRouter(), hash_prompt(prompt_ids, 4)
    request = ForwardedRequest({}, b"", prompt, frozenset(avoided))
    order = request_router.order_replicas(router, request, lengths)
    assert sorted(order) == NAMES
    assert set(order[len(NAMES) - len(avoided) :]) == avoided
    least = min(lengths.values())
    if not avoided and prompt == PromptPages(prompt.num_tokens, 4):
        assert lengths[order[0]] == least
