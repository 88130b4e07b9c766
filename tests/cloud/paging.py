"""Pages as EC2 hands them out: MaxResults and an opaque NextToken."""

import base64
import binascii

from moto.ec2.exceptions import EC2ClientError

# The most that one answer holds if the caller names no number.
MOST = 1000


def page(things: list, max_results, next_token, least: int = 5) -> tuple[list, str | None]:
    """The page that `next_token` points to, and the token of the next one."""
    size = MOST if max_results is None else int(max_results)
    if not least <= size <= MOST:
        bound = f"greater than {least}" if size < least else f"less than {MOST}"
        raise EC2ClientError(
            "InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}."
        )
    start = 0
    if next_token:
        try:
            start = int(base64.b64decode(next_token, validate=True))
        except (ValueError, binascii.Error):
            raise EC2ClientError("InvalidNextToken", "The token is not valid.") from None
    end = start + size
    token = base64.b64encode(str(end).encode()).decode() if end < len(things) else None
    return things[start:end], token
