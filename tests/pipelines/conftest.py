"""One Ray and one object store for all tests of programs: starting them takes seconds."""

import logging
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The URI of an empty bucket on an S3 server of this process, to which the environment leads."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="shared")
        yield "s3://shared"
    server.stop()


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory, object_store: str) -> Iterator[str]:
    """A local Ray with 2 CPUs, whose workers reach the object store; the value is its address, for programs that are to join it.

    Its workers have the environment of this moment: their copies of remote files lie in a folder of the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYES_PFL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # Ray Train looks after its workers every 2 s
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        ray.shutdown()  # of a test before this one that has started Ray in this process
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
