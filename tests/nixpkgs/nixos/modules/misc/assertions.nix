# What a configuration must fulfil, and what it should be told.
{ lib, ... }:
{
  options = {
    assertions = lib.mkOption {
      type = lib.types.listOf lib.types.unspecified;
      internal = true;
      default = [ ];
      description = "Sets of `assertion` and `message`; the toplevel can only be made if all assertions hold.";
    };
    warnings = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      internal = true;
      default = [ ];
      description = "Messages shown when the toplevel is evaluated.";
    };
    meta = lib.mkOption {
      type = lib.types.lazyAttrsOf lib.types.raw;
      internal = true;
      default = { };
      description = "What a module says of itself (maintainers, documentation); not used here.";
    };
  };
}
