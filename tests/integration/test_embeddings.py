"""A real sentence-embedding model (all-MiniLM-L6-v2) served over text: every text becomes its 384 numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import asyncbatch

pytestmark = [pytest.mark.real("embeddings"), pytest.mark.timeout(240)]

FORMS: dict[str, dict[str, Any]] = {
    "one text a request": {"body": "raw", "concurrency": 2},
    "a list of texts": {"body": "json", "template": "inputs", "row": "value", "chunk_rows": "1:32"},
    "a list of texts, float32": {"body": "json", "template": "inputs", "row": "value", "prediction_type": "list<float32>"},
}  # fmt: skip


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_texts_become_the_models_own_vectors(
    options: dict[str, Any], tmp_path: Path, embeddings: Any
) -> None:
    report = asyncbatch.run(
        str(embeddings.rows),
        str(tmp_path / "out"),
        endpoint=embeddings.url,
        send="text",
        block_rows=50,
        **options,
    )
    assert report.exit_code == 0
    scored = pq.read_table(tmp_path / "out")
    texts = [json.loads(line) for line in embeddings.rows.read_text().splitlines()]
    assert scored.select(["id", "text"]).to_pylist() == texts
    wide = pa.float32() if "prediction_type" in options else pa.float64()
    assert scored.schema.field("prediction").type == pa.list_(wide)
    vectors = np.array(scored["prediction"].to_pylist())
    assert vectors.shape == (len(texts), 384)
    # A text's vector depends on its batch by rounding (padding): six digits are the model's own.
    np.testing.assert_allclose(vectors, np.array(embeddings.expected), atol=2e-6)
    own_best = (vectors @ np.array(embeddings.expected).T).argmax(axis=1)
    assert own_best.tolist() == list(range(len(texts)))
