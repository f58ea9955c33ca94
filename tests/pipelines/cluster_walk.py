"""A program for test_cluster_walk: ingest, train and evaluate on three nodes, one of which is killed on the way.

Everything the stages hand on is named by URI, and each node has a folder of its own for copies.
"""

import json
import sys
import threading
import time
from pathlib import Path

from small import BACKBONE

from bayes_pfl.config import ModelConfig, TrainingConfig
from bayes_pfl.synthetic import write_dataset
from pipelines.evaluate import EvaluateSettings, evaluate
from pipelines.ingest import IngestConfig, ingest
from pipelines.settings import ClusterSettings, DataSettings, TrainSettings
from pipelines.storage import Store
from pipelines.train import train

EPOCHS = 4


def main(folder: Path) -> None:
    """Print what happened as one line of JSON."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    others = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    write_dataset(folder / "images", ("carpet", "gear"), 2, 4, size=64, seed=31)
    write_dataset(folder / "unseen", ("leather",), 2, 3, size=64, seed=32)
    for name in ("images", "unseen"):
        ingest(
            "folder",
            folder / name,
            folder / f"{name}-shards",
            IngestConfig(splits=("test",), name=name, rows_per_shard=4),
        )
    settings = TrainSettings(
        backbone=BACKBONE,
        model=ModelConfig(num_prompts=2, flow_length=1),
        training=TrainingConfig(epochs=EPOCHS, batch_size=4, learning_rate=1e-3),
        data=DataSettings(train=f"file://{folder}/images-shards"),
        cluster=ClusterSettings(storage=f"file://{folder}/checkpoints", cpus_per_worker=0.75, cpus_per_loader=0.25),
        output=f"file://{folder}/bundles/model",
    )
    checkpoints = Store(f"file://{folder}/checkpoints/{settings.name()}")
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
            model=str(folder / "bundles" / "model"),
            shards=(str(folder / "unseen-shards"),),
            num_samples=1,
            cases=0,
            workers=1,
            output=str(folder / "evaluation"),
        )
    )
    alive = sum(node["Alive"] for node in ray.nodes())
    images = result["datasets"]["unseen"]["images"]
    print(
        json.dumps({"nodes_left": alive, "killed": len(killed), "bundle": trained["bundle"], "images": images}),
        flush=True,
    )
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
