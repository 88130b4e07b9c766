# Names and versions of the system, and /etc/os-release.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.system.nixos;
in
{
  options.system = {
    stateVersion = mkOption {
      type = types.str;
      default = lib.trivial.release;
      description = "The release that the machine was first installed with.";
    };
    configurationRevision = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The revision of the configuration.";
    };
    nixos = {
      release = mkOption {
        type = types.str;
        readOnly = true;
        default = lib.trivial.release;
        description = "The release, such as ${lib.trivial.release}.";
      };
      versionSuffix = mkOption {
        type = types.str;
        default = lib.trivial.versionSuffix;
        description = "What follows the release in the version.";
      };
      version = mkOption { type = types.str; default = cfg.release + cfg.versionSuffix; description = "The full version."; };
      revision = mkOption { type = types.nullOr types.str; default = null; description = "The revision of nixpkgs."; };
      codeName = mkOption {
        type = types.str;
        readOnly = true;
        default = lib.trivial.codeName;
        description = "The name of the release.";
      };
      label = mkOption {
        type = types.strMatching "[a-zA-Z0-9:_.-]*";
        default = cfg.version;
        description = "The label of the system in the boot menu.";
      };
      tags = mkOption { type = types.listOf types.str; default = [ ]; description = "Strings to put before the label."; };
      distroId = mkOption { type = types.str; default = "nixos"; description = "The id in os-release."; };
      distroName = mkOption { type = types.str; default = "NixOS"; description = "The name in os-release."; };
      variant_id = mkOption { type = types.nullOr types.str; default = null; description = "The variant in os-release."; };
    };
  };

  config = {
    warnings = lib.optional (options.system.stateVersion.highestPrio == (lib.mkOptionDefault { }).priority)
      ("system.stateVersion is not set, defaulting to ${config.system.stateVersion}. Read why this matters on "
        + "https://nixos.org/manual/nixos/stable/options.html#opt-system.stateVersion.");
    environment.systemPackages = [
      (pkgs.writeShellScriptBin "nixos-version" "echo ${lib.escapeShellArg "${cfg.version} (${cfg.codeName})"}")
    ];
    environment.etc.os-release.text = ''
      ID=${cfg.distroId}
      NAME=${cfg.distroName}
      PRETTY_NAME="${cfg.distroName} ${cfg.release} (${cfg.codeName})"
      VERSION="${cfg.release} (${cfg.codeName})"
      VERSION_ID="${cfg.release}"
      BUILD_ID="${cfg.version}"
    '' + lib.optionalString (cfg.variant_id != null) "VARIANT_ID=${cfg.variant_id}\n";
  };
}
