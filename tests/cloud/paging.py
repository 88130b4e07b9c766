"""Pages as EC2 hands them out: MaxResults and an opaque NextToken."""

import base64
import binascii

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

# The most that one answer holds if the caller names no number.
MOST = 1000


class PagedCalls:
    """Pages for the calls whose things moto gives all at once."""

    def describe_network_interfaces(self):
        return self._in_pages(super().describe_network_interfaces(), "NetworkInterfaces")

    def describe_subnets(self):
        return self._in_pages(super().describe_subnets(), "Subnets")

    def describe_volumes(self):
        return self._in_pages(super().describe_volumes(), "Volumes")

    def describe_volumes_modifications(self):
        return self._in_pages(super().describe_volumes_modifications(), "VolumesModifications")

    def describe_vpcs(self):
        return self._in_pages(super().describe_vpcs(), "Vpcs")

    def _in_pages(self, answer, name: str):
        things, token = self._page(answer.result[name])
        return ActionResult({name: things, "NextToken": token})

    def _page(self, things: list, least: int = 5) -> tuple[list, str | None]:
        """The page that the request's token points to, and the token of the next one."""
        asked, token = self._get_param("MaxResults"), self._get_param("NextToken")
        size = MOST if asked is None else int(asked)
        if not least <= size <= MOST:
            bound = f"greater than {least}" if size < least else f"less than {MOST}"
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}.",
            )
        start = 0
        if token:
            try:
                start = int(base64.b64decode(token, validate=True))
            except (ValueError, binascii.Error):
                raise EC2ClientError("InvalidNextToken", "The token is not valid.") from None
        # What is asked for by its ids is one answer.
        if (cap := int(self.cloud.settings.page)) and not any(name.endswith("Ids") for name in self.params):
            size = min(size, cap)
            if not token:
                # What a filter leaves of a page may be nothing, and more may follow (EC2 developer guide, "Pagination").
                return [], token_of(0)
        end = start + size
        return things[start:end], token_of(end) if end < len(things) else None


def token_of(start: int) -> str:
    return base64.b64encode(str(start).encode()).decode()
