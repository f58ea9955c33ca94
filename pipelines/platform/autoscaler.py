"""A cluster that is too small -> the machines that its autoscaler brings, or a sentence that it brings none."""

import json
import math
import sys
import time

from pipelines.platform.resources import check_resources, cluster_has

LOOK_S = 2.0
"""Between two looks at the cluster."""
LINE_S = 60.0
"""Between two lines about it."""
PATIENCE_S = 30.0
"""So long without a machine that comes or is under way, a cluster counts as one that does not grow: autoscalers look
every 5 s."""


def wait_for_machines(cpus: float, gpus: float) -> None:
    """Ask the cluster's autoscaler for machines until it has what is needed; a line a minute says how far it is.

    Args:
        cpus: CPUs that are needed at once.
        gpus: GPUs that are needed at once.

    Raises:
        ConfigError: no machine comes, and none is under way: there is no autoscaler, or it can bring no more.
    """
    from ray.autoscaler.sdk import request_resources

    bundles = [{"GPU": 1.0}] * math.ceil(gpus) + [{"CPU": 1.0}] * math.ceil(cpus)
    began = moved = time.monotonic()
    spoken, before = -math.inf, cluster_has()
    try:
        while True:
            request_resources(bundles=bundles)
            now, present = time.monotonic(), cluster_has()
            if present["CPU"] >= cpus and present["GPU"] >= gpus:
                return
            if present != before or machines_under_way():
                before, moved = present, now
            if now - moved > PATIENCE_S:
                check_resources("the cluster", present["CPU"], present["GPU"], cpus, gpus)
            if now - spoken >= LINE_S:
                spoken = now
                print(
                    f"The cluster has {present['CPU']:g} of {cpus:g} CPUs and {present['GPU']:g} of {gpus:g} GPUs; "
                    f"waiting for its autoscaler, {(now - began) / 60:.0f} min so far.",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(LOOK_S)
    finally:
        request_resources(bundles=[])  # from here on the work itself keeps the machines


def machines_under_way() -> bool:
    """Whether the autoscaler of the joined cluster says that it is starting machines.

    Returns:
        False also where there is none.
    """
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(status.pending_nodes or status.pending_launches)
    text = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = json.loads(text or "{}").get("autoscaler_report") or {}
    return bool(report.get("pending_nodes") or report.get("pending_launches"))
