"""aioboto3 with gather and a semaphore: what an asyncio programmer writes."""

import time

started_s = time.perf_counter()

import asyncio
import io
import json

import aioboto3
import numpy as np
import pandas as pd
from aiobotocore.config import AioConfig
from common import ENDPOINT, NOT_FEATURES, arguments, finished

given = arguments()
frame = pd.read_parquet(given.data + ".parquet")
test = frame.drop(columns=list(NOT_FEATURES))
TYPES = {"csv": "text/csv", "jsonl": "application/jsonlines", "npy": "application/x-npy"}


def encode(rows: pd.DataFrame) -> bytes:
    if given.body == "jsonl":
        return "\n".join(json.dumps(row) for row in rows.values.tolist()).encode()
    if given.body == "npy":
        buffer = io.BytesIO()
        np.save(buffer, rows.values)
        return buffer.getvalue()
    return rows.to_csv(header=False, index=False).encode()


def decode(body: bytes) -> np.ndarray:
    if given.body == "npy":
        return np.load(io.BytesIO(body))
    return np.array(body.decode().split(), dtype=float)


async def main() -> None:
    semaphore = asyncio.Semaphore(given.concurrency)
    config = AioConfig(max_pool_connections=given.concurrency, retries={"total_max_attempts": 1})
    async with aioboto3.Session().client(
        "sagemaker-runtime", endpoint_url=given.url, verify=given.ca, config=config
    ) as client:

        async def predict(start: int) -> np.ndarray:
            async with semaphore:
                response = await client.invoke_endpoint(
                    EndpointName=ENDPOINT,
                    Body=encode(test.iloc[start : start + given.chunk]),
                    ContentType=TYPES[given.body],
                )
                return decode(await response["Body"].read())

        results = await asyncio.gather(*(predict(start) for start in range(0, len(test), given.chunk)))
    frame["prediction"] = np.concatenate(results)


asyncio.run(main())
(frame[["id", "prediction"]] if given.keep == "id" else frame).to_parquet(given.out)
finished(len(frame), started_s)
