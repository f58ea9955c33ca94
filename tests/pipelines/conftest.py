"""One Ray for all tests of programs: starting one takes seconds."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local Ray with 2 CPUs; the value is its address, for programs that are to join it.

    Its workers have the environment of this moment: their copies of remote files lie in a folder of the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # Ray Train looks after its workers every 2 s
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        context = ray.init(
            address="local",  # not a cluster that someone else has running here
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=150 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield context.address_info["address"]
        ray.shutdown()
