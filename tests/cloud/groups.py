"""Security groups as EC2 treats them: names and descriptions checked, CIDRs normalised, none deleted while in use."""

import ipaddress
import re

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidSecurityGroupNotFoundError


# EC2 API reference, CreateSecurityGroup: what a name and a description in a VPC may hold.
ALLOWED = re.compile(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
# The same for the description of a rule (EC2 API reference, IpRange), which may be empty.
ALLOWED_RULE = re.compile(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{0,255}")


class GroupCalls:
    def create_security_group(self):
        name = self._get_param("GroupName") or ""
        description = self._get_param("Description") or ""
        if name.startswith("sg-"):
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{name}' for groupName: it may not start with sg-")
        for value, what in ((name, "groupName"), (description, "GroupDescription")):
            if not value:
                raise EC2ClientError("MissingParameter", f"The request must contain the parameter {what}")
            if not value.isascii():
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"Value ({value}) for parameter {what} is invalid. Character sets beyond ASCII are not supported.",
                )
            if not ALLOWED.fullmatch(value):
                raise EC2ClientError("InvalidParameterValue", f"Invalid security group {what}: {value}")
        vpc_id = self._get_param("VpcId")
        if vpc_id and vpc_id not in self.ec2_backend.vpcs:
            raise EC2ClientError("InvalidVpcID.NotFound", f"The vpc ID '{vpc_id}' does not exist")
        tags = self._parse_tag_specification().get("security-group", {})
        self.error_on_dryrun()
        vpc_id = vpc_id or self.ec2_backend.default_vpc.id
        if self.ec2_backend.get_security_group_from_name(name, vpc_id):
            raise EC2ClientError("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{vpc_id}'")
        group = self.ec2_backend.create_security_group(name, description, vpc_id=vpc_id, tags=tags)
        self.cloud.born(group.id, "CreateSecurityGroup")
        return ActionResult({
            "GroupId": group.id,
            "SecurityGroupArn": group.arn,
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        })

    def describe_security_groups(self):
        groups = [g for of_vpc in self.ec2_backend.groups.values() for g in of_vpc.values() if not self.cloud.hidden(g.id)]
        ids = self._get_param("GroupIds", [])
        names = self._get_param("GroupNames", [])
        default_vpc = self.ec2_backend.default_vpc.id
        for identifier in ids:
            if identifier not in {g.id for g in groups}:
                raise InvalidSecurityGroupNotFoundError(identifier)
        for name in names:
            if name not in {g.name for g in groups if g.vpc_id == default_vpc}:
                raise EC2ClientError(
                    "InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC '{default_vpc}'"
                )
        if ids or names:
            groups = [g for g in groups if g.id in ids or (g.name in names and g.vpc_id == default_vpc)]
        filters = self._filters_from_querystring()
        if filters:
            groups = [g for g in groups if g.matches_filters(filters)]
        groups, token = self._page(groups)
        return ActionResult({"SecurityGroups": groups, "NextToken": token})

    def delete_security_group(self):
        backend = self.ec2_backend
        name, identifier = self._get_param("GroupName"), self._get_param("GroupId")
        if identifier:
            group = backend.get_security_group_from_id(identifier)
        else:
            group = backend.get_security_group_from_name(name or "", backend.default_vpc.id)
        if group is None or self.cloud.hidden(group.id):
            raise InvalidSecurityGroupNotFoundError(identifier or name)
        self.error_on_dryrun()
        if group.is_default or group.name == "default":
            raise EC2ClientError(
                "CannotDelete", f'the specified group: "{group.id}" name: "{group.name}" cannot be deleted by a user'
            )
        if in_use(backend, group):
            raise EC2ClientError("DependencyViolation", f"resource {group.id} has a dependent object")
        del backend.groups[group.vpc_id][group.id]
        backend.tags.pop(group.id, None)
        return ActionResult({"Return": True, "GroupId": group.id})

    def authorize_security_group_ingress(self):
        return self._change_rules(self.ec2_backend.authorize_security_group_ingress)

    def authorize_security_group_egress(self):
        return self._change_rules(self.ec2_backend.authorize_security_group_egress)

    def revoke_security_group_ingress(self):
        return self._change_rules(self.ec2_backend.revoke_security_group_ingress, tagged=False)

    def revoke_security_group_egress(self):
        return self._change_rules(self.ec2_backend.revoke_security_group_egress, tagged=False)

    def _change_rules(self, change, tagged: bool = True):
        """Adds or takes away all the rules of a request, or none of them."""
        self.error_on_dryrun()
        self._normalise_cidrs()
        identifier = self._get_param("GroupName") or self._get_param("GroupId")
        group = self.ec2_backend.get_security_group_by_name_or_id(identifier)
        if group is None:
            raise InvalidSecurityGroupNotFoundError(identifier)
        before = list(group.ingress_rules), list(group.egress_rules)
        changed = []
        try:
            for rule in self._process_rules_from_querystring():
                if not tagged:
                    del rule["sgrule_tags"]
                answer = change(**rule)
                changed += answer[0] if answer else []
        except ServiceException:
            group.ingress_rules, group.egress_rules = before
            raise
        return ActionResult({"Return": True, "SecurityGroupRules": changed})

    def _normalise_cidrs(self) -> None:
        """Clears the host bits of every CIDR, as EC2 does before it stores or looks for a rule."""
        for permission in [self.params, *self.params.get("IpPermissions", [])]:
            if "CidrIp" in permission:
                permission["CidrIp"] = network(permission["CidrIp"], ipaddress.IPv4Network)
            for key, member, kind in (
                ("IpRanges", "CidrIp", ipaddress.IPv4Network),
                ("Ipv6Ranges", "CidrIpv6", ipaddress.IPv6Network),
            ):
                for entry in permission.get(key, []):
                    entry[member] = network(entry.get(member) or "", kind)
                    description = entry.get("Description") or ""
                    if not ALLOWED_RULE.fullmatch(description):
                        raise EC2ClientError(
                            "InvalidParameterValue",
                            f"Invalid rule description '{description}'. Valid descriptions are strings less than 256 "
                            "characters from the following set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
                        )


def network(text: str, kind) -> str:
    try:
        if "/" not in text:
            raise ValueError
        return str(kind(text, strict=False))
    except ValueError:
        raise EC2ClientError("InvalidParameterValue", f"CIDR block {text} is malformed") from None


def in_use(backend, group) -> bool:
    """Whether an interface, an instance that is not yet terminated, or a rule of another group needs the group."""
    for interface in backend.enis.values():
        if any(g.id == group.id for g in interface.group_set):
            return True
    for instance in backend.all_instances():
        if instance.state != "terminated" and any(g.id == group.id for g in instance.security_groups):
            return True
    others = [g for of_vpc in backend.groups.values() for g in of_vpc.values() if g is not group]
    for other in others:
        for rule in other.ingress_rules + other.egress_rules:
            if (rule.source_group or {}).get("GroupId") == group.id:
                return True
    return False
