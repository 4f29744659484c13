"""What Spark reads of outputs: for benchmarks/readers.py, in the environment of scripts/readers.

    python benchmarks/readers_spark.py < outputs.json

Gets `{name: path}` and prints `{name: [rows], …}` as JSON lines of its own at the end, one an output.
"""

import json
import sys

from pyspark.sql import SparkSession


def main() -> None:
    outputs: dict[str, str] = json.load(sys.stdin)
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    print(json.dumps({"version": spark.version}))
    for name, path in outputs.items():
        frame = spark.read.parquet(path).orderBy("id")
        rows = [
            [row["id"], row["kind"], str(row["day"]), row["prediction"], row["error"]]
            for row in frame.collect()
        ]
        print(json.dumps({"output": name, "rows": rows}))
    spark.stop()


if __name__ == "__main__":
    main()
