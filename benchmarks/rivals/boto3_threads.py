"""boto3 in a pool of threads, bodies by to_csv: the usual next step."""

import time

started_s = time.perf_counter()

import io
from concurrent.futures import ThreadPoolExecutor

import boto3
import numpy as np
import pandas as pd
from botocore.config import Config
from common import ENDPOINT, NOT_FEATURES, arguments, finished

given = arguments()
frame = pd.read_parquet(given.data + ".parquet")
test = frame.drop(columns=list(NOT_FEATURES))
config = Config(max_pool_connections=given.concurrency, retries={"total_max_attempts": 1})
client = boto3.client("sagemaker-runtime", endpoint_url=given.url, verify=given.ca, config=config)


def predict(start: int) -> np.ndarray:
    buffer = io.StringIO()
    test.iloc[start : start + given.chunk].to_csv(buffer, header=False, index=False)
    response = client.invoke_endpoint(EndpointName=ENDPOINT, Body=buffer.getvalue(), ContentType="text/csv")
    return np.array(response["Body"].read().decode().split(), dtype=float)


with ThreadPoolExecutor(given.concurrency) as pool:
    frame["prediction"] = np.concatenate(list(pool.map(predict, range(0, len(test), given.chunk))))
frame.to_parquet(given.out)
finished(len(frame), started_s)
