# Variants of the system, built with it: switched to by name, or chosen in the boot menu.
{ config, extendModules, lib, ... }:
let
  inherit (lib) mkOption types;
  variant = types.submodule {
    options = {
      inheritParentConfig = mkOption {
        type = types.enum [ true ];
        default = true;
        description = "Must stay on: variants add to this configuration.";
      };
      configuration = mkOption {
        default = { };
        # A variant has none of its own.
        type = (extendModules { modules = [ { specialisation = lib.mkOverride 0 { }; } ]; }).type;
        visible = "shallow";
        description = "What the variant adds.";
      };
    };
  };
in
{
  options.specialisation = mkOption { type = types.attrsOf variant; default = { }; description = "Variants by name."; };
  config.assertions = lib.mapAttrsToList (name: _: {
    assertion = builtins.match "[[:alnum:]_-]+" name != null;
    message = "Specialisation names can only contain letters, digits, dashes and underscores; ‘${name}’ does not.";
  }) config.specialisation;
}
