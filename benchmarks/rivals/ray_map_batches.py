"""Ray Data: map_batches over actors that hold a boto3 client."""

import time

started_s = time.perf_counter()

import logging
import os
from typing import Any

os.environ["RAY_DEDUP_LOGS"] = "0"

import numpy as np
import pandas as pd
import ray
from common import ENDPOINT, NOT_FEATURES, arguments, finished

given = arguments()


class Predictor:
    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        config = Config(retries={"total_max_attempts": 1})
        self.client = boto3.client(
            "sagemaker-runtime", endpoint_url=given.url, verify=given.ca, config=config
        )

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        body = batch.drop(columns=list(NOT_FEATURES)).to_csv(header=False, index=False)
        response: Any = self.client.invoke_endpoint(EndpointName=ENDPOINT, Body=body, ContentType="text/csv")
        batch["prediction"] = np.array(response["Body"].read().decode().split(), dtype=float)
        return batch


ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = ray.data.read_parquet(given.data + ".parquet")
scored = rows.map_batches(Predictor, batch_size=given.chunk, batch_format="pandas", concurrency=1)
scored.write_parquet(given.out)
finished(ray.data.read_parquet(given.data + ".parquet").count(), started_s)
ray.shutdown()
