# The package set of the system.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixpkgs;
  platform = types.either types.str (types.attrsOf types.anything);
in
{
  options.nixpkgs = {
    system = mkOption {
      type = types.str;
      description = "The system, such as x86_64-linux, where hostPlatform is not set.";
    };
    hostPlatform = mkOption {
      type = platform;
      apply = lib.systems.elaborate;
      description = "The platform that the system runs on.";
    };
    buildPlatform = mkOption {
      type = types.nullOr platform;
      default = null;
      description = "The platform that it is built on; must be the same.";
    };
    localSystem = mkOption { type = types.nullOr platform; default = null; description = "An older name of hostPlatform."; };
    config = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      description = "Configuration of the package set, such as allowUnfree.";
    };
    overlays = mkOption {
      type = types.listOf (types.uniq (types.functionTo (types.functionTo types.raw)));
      default = [ ];
      description = "Overlays of the package set.";
    };
    pkgs = mkOption { type = types.nullOr types.pkgs; default = null; description = "A package set to use as it is."; };
    flake.source = mkOption {
      type = types.nullOr (types.either types.str types.path);
      default = null;
      description = "The flake that the package set is from.";
    };
  };

  config = {
    _module.args.pkgs = lib.mkOptionDefault (
      if cfg.pkgs != null then cfg.pkgs.appendOverlays cfg.overlays
      else import ../../.. {
        inherit (cfg) config overlays;
        inherit (lib.systems.elaborate
          (if options.nixpkgs.hostPlatform.isDefined then cfg.hostPlatform
          else if cfg.localSystem != null then cfg.localSystem
          else if options.nixpkgs.system.isDefined then cfg.system
          else throw ("Neither nixpkgs.hostPlatform nor the legacy option nixpkgs.system has been set. "
            + "Set nixpkgs.hostPlatform = \"x86_64-linux\"; in the configuration."))) system;
      }
    );
    assertions = [ {
      assertion = cfg.buildPlatform == null || (lib.systems.elaborate cfg.buildPlatform).system == pkgs.system;
      message = "nixpkgs.buildPlatform: this <nixpkgs> cannot cross-compile.";
    } ];
  };
}
