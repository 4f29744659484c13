"""What of a URL may be shown and stored."""

import pytest
from yarl import URL

from asyncbatch.endpoint.http import shown_url
from asyncbatch.observe.text import without_credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://joe:pw@host/invocations", "https://host/invocations"),
        ("https://host/a?token=t0p&version=2", "https://host/a?token=…&version=2"),
        ("https://host/a?version=2&X-Api-Key=t0p#part", "https://host/a?version=2&X-Api-Key=…#part"),
        ("https://host/a?version=2", "https://host/a?version=2"),
        ("in/?token=[12].csv", "in/?token=[12].csv"),
        ("churn-prod", "churn-prod"),
    ],
)
def test_secrets_in_urls_are_left_out(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_reports_show_a_url_as_messages_do() -> None:
    url = "https://joe:pw@host/a?token=t0p&version=2"
    assert without_credentials(url) == shown_url(URL(url))
