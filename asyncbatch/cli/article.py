"""The loop that people write today, written as they write it: the baseline of the demo and of the benchmarks.

The whole set in a pandas frame; 100 rows a call, values joined by commas with `str`; one synchronous `invoke_endpoint`; the
body decoded, split and put through `float`. Nothing here is meant to be good.
"""

from typing import Any

CHUNK_ROWS = 100


def article_loop(frame: Any, client: Any, endpoint: str) -> list[float]:
    """Predictions for every row of a pandas frame, in order; `client` is boto3's `sagemaker-runtime`."""
    predictions: list[float] = []
    for start in range(0, len(frame), CHUNK_ROWS):
        rows = frame.iloc[start : start + CHUNK_ROWS].values
        body = "\n".join(",".join(str(value) for value in row) for row in rows)
        response = client.invoke_endpoint(EndpointName=endpoint, Body=body, ContentType="text/csv")
        text = response["Body"].read().decode("utf-8").strip()
        predictions.extend(float(piece) for piece in text.split("\n"))
    return predictions
