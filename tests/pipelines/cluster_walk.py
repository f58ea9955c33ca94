"""A program for test_cluster_walk: ingest, train and evaluate on three nodes, one of which is killed on the way.

Everything the stages hand on lies in an object store, and is copied from there before it is read. A worker runs on each node; after the kill
there is room for two.
"""

import json
import sys
import threading
import time
from pathlib import Path

from small import BACKBONE

from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.data.remote import Store
from bayes_pfl.synthetic import write_dataset
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import ingest
from pipelines.options.ingest import IngestConfig
from pipelines.platform.settings import ClusterSettings, DataSettings, TrainSettings
from pipelines.train import train
from pipelines.training.images import run_name, split_samples

EPOCHS = 4


def main(folder: Path, store: str) -> None:
    """Write what happened to walk.json: standard output has what Ray says of its dead node."""
    import ray
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}  # a dead node is noticed in 2 s, not 15
    head = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    others = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    options = IngestConfig(splits=("test",), rows_per_shard=4)
    for name, categories in (("auxiliary", ("carpet", "gear")), ("unseen", ("leather",))):
        write_dataset(folder / name, categories, 2, 4, size=64, seed=31 + len(categories))
        ingest("folder", folder / name, f"{store}/shards/{name}", options)
    settings = TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(num_prompts=2, flow_length=1),
        training=TrainingConfig(epochs=EPOCHS, batch_size=4, learning_rate=1e-3),
        data=DataSettings(train=f"{store}/shards/auxiliary"),
        cluster=ClusterSettings(
            num_workers=3,
            min_workers=2,
            storage=f"{store}/checkpoints",
            cpus_per_worker=0.75,
            cpus_per_loader=0.25,
        ),
        output=f"{store}/bundles/model",
    )
    checkpoints = Store(f"{store}/checkpoints/{run_name(settings, *split_samples(settings))}")
    killed: list[int] = []

    def kill_a_node() -> None:
        while checkpoints.read_json("epoch_0001/progress.json") is None:
            time.sleep(0.02)
        killed.append(len(checkpoints.names()))
        cluster.remove_node(others[-1], allow_graceful=False)

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    trained = train(settings)
    killer.join(60)
    result = evaluate(
        EvaluateSettings(
            model=trained["bundle"],
            shards=(f"{store}/shards/unseen",),
            num_samples=1,
            cases=0,
            workers=1,
            output=f"{store}/evaluation",
        )
    )
    alive = sum(node["Alive"] for node in ray.nodes())
    lines = Path(trained["metrics_file"]).read_text(encoding="utf-8").splitlines()
    report = {
        "nodes_left": alive,
        "killed": len(killed),
        "bundle": trained["bundle"],
        "images": result["datasets"]["unseen"]["images"],
        "workers": [json.loads(line)["workers"] for line in lines],
    }
    (folder / "walk.json").write_text(json.dumps(report), encoding="utf-8")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
