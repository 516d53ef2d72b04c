"""Processes that count, and the content of their files."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from feedbus.metrics import Metrics, exposition


def start(source, directory, *arguments, **options):
    lines = [
        "import sys",
        "from pathlib import Path",
        "from feedbus.metrics import Metrics",
        "directory = Path(sys.argv[1])",
        source,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), str(directory), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def samples(directory, gauges=None):
    text = exposition(directory, gauges).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def record(directory, name, deliveries=1):
    with Metrics.open(directory, name) as metrics:
        metrics.consumer(name).settled("ack", deliveries, deliveries * 10)
