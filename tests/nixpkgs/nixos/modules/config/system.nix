# What a system is made of: the parts that modules contribute to the toplevel.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  # A script may be given as its text alone.
  script = types.coercedTo types.str (text: { inherit text; }) (types.submodule {
    options = {
      deps = mkOption { type = types.listOf types.str; default = [ ]; description = "Names of the scripts to run before."; };
      text = mkOption { type = types.lines; description = "The text of the script."; };
      supportsDryActivation = mkOption {
        type = types.bool;
        default = false;
        description = "Whether it may run in dry-activate; it then looks at NIXOS_ACTION.";
      };
    };
  });
in
{
  options.documentation = lib.genAttrs [ "enable" ] (_: lib.mkEnableOption "manuals; accepted, there are none here")
    // lib.genAttrs [ "nixos" "man" "info" "doc" "dev" ] (part: {
      enable = lib.mkEnableOption "the ${part} manuals; accepted, there are none here";
    });

  options.system = {
    build = mkOption {
      type = types.submodule { freeformType = types.lazyAttrsOf types.unspecified; };
      default = { };
      description = "Derivations that make up the system.";
    };
    name = mkOption {
      type = types.str;
      default = if config.networking.hostName == "" then "unnamed" else config.networking.hostName;
      description = "The name of the system in the toplevel's store path.";
    };
    activationScripts = mkOption {
      type = types.attrsOf script;
      default = { };
      description = "Parts of the activation script, run as root at boot and at each switch.";
    };
    userActivationScripts = mkOption {
      type = types.attrsOf script;
      default = { };
      description = "Parts of a script for users; accepted, run by nobody here.";
    };
    extraSystemBuilderCmds = mkOption {
      type = types.lines;
      default = "";
      description = "Shell commands added to the toplevel's builder.";
    };
    systemBuilderCommands = mkOption {
      type = types.lines;
      default = "";
      internal = true;
      description = "Shell commands of the toplevel's builder.";
    };
    systemBuilderArgs = mkOption {
      type = types.attrsOf types.unspecified;
      default = { };
      internal = true;
      description = "Attributes of the toplevel's derivation.";
    };
    extraDependencies = mkOption {
      type = types.listOf types.pathInStore;
      default = [ ];
      description = "Paths that the toplevel refers to and does not link.";
    };
    checks = mkOption {
      type = types.listOf types.package;
      default = [ ];
      description = "Derivations that must build for the toplevel to build.";
    };
    forbiddenDependenciesRegexes = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Accepted, not checked here.";
    };
    switch.enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the toplevel has bin/switch-to-configuration.";
    };
    preSwitchChecks = mkOption {
      type = types.attrsOf types.str;
      default = { };
      description = "Scripts that switch-to-configuration runs first, with the new toplevel and the action as arguments; one that fails stops it with exit code 1.";
    };
    switch.inhibitors = mkOption {
      type = types.lazyAttrsOf types.raw;
      default = { };
      description = "Parts of the system that cannot be changed without a reboot.";
    };
    copySystemConfiguration = mkOption { type = types.bool; default = false; description = "Accepted, does nothing here."; };
    autoUpgrade.enable = mkOption {
      type = types.bool;
      default = false;
      description = "Must stay off: there is no channel to upgrade from.";
    };
  };

  config.assertions = [ {
    assertion = !config.system.autoUpgrade.enable;
    message = "system.autoUpgrade: this <nixpkgs> has no channel to upgrade from.";
  } ];
}
