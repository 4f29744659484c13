"""The loop that people write: the whole set in pandas, rows joined by commas, one synchronous call after the other."""

import time

started_s = time.perf_counter()

import boto3
import pandas as pd
from botocore.config import Config
from common import ENDPOINT, NOT_FEATURES, arguments, finished

given = arguments()
frame = pd.read_csv(given.data + ".csv")
test = frame.drop(columns=list(NOT_FEATURES))
client = boto3.client(
    "sagemaker-runtime",
    endpoint_url=given.url,
    verify=given.ca,
    config=Config(retries={"total_max_attempts": 1}),
)
predictions = []
for start in range(0, len(test), given.chunk):
    rows = test.iloc[start : start + given.chunk].values
    body = "\n".join(",".join(str(value) for value in row) for row in rows)
    response = client.invoke_endpoint(EndpointName=ENDPOINT, Body=body, ContentType="text/csv")
    text = response["Body"].read().decode("utf-8").strip()
    predictions.extend(float(piece) for piece in text.split("\n"))
frame["Prediction"] = predictions
frame["Binary Classification"] = (frame["Prediction"] > 0.5).astype(int)
frame.to_csv(given.out, index=False)
finished(len(predictions), started_s)
