# Nix on the machine: /etc/nix/nix.conf, garbage collection.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nix;
  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path types.package ]);
  value = types.either atom (types.listOf atom);
  show = v:
    if v == true then "true" else if v == false then "false" else if v == null then "" else toString v;
  # An empty list says as much as none, except where Nix has a default of its own.
  written = lib.filterAttrs (name: v: v != [ ] || lib.elem name [ "substituters" "trusted-public-keys" ]) cfg.settings;
  strings = default: description: mkOption { type = types.listOf types.str; inherit default description; };
  renamed = old: new: lib.mkRenamedOptionModule [ "nix" old ] [ "nix" "settings" new ];
in
{
  imports = [
    (renamed "binaryCaches" "substituters")
    (renamed "trustedBinaryCaches" "trusted-substituters")
    (renamed "binaryCachePublicKeys" "trusted-public-keys")
    (renamed "trustedUsers" "trusted-users")
    (renamed "allowedUsers" "allowed-users")
    (renamed "maxJobs" "max-jobs")
    (renamed "buildCores" "cores")
    (renamed "useSandbox" "sandbox")
    (renamed "requireSignedBinaryCaches" "require-sigs")
    (renamed "autoOptimiseStore" "auto-optimise-store")
  ];

  options.nix = {
    enable = mkOption {
      type = types.enum [ true ];
      default = true;
      description = "Must stay on: systems arrive through Nix.";
    };
    package = mkOption { type = types.package; default = pkgs.nix; description = "The Nix of the machine."; };
    extraOptions = mkOption { type = types.lines; default = ""; description = "Lines for nix.conf."; };
    nixPath = strings [ "nixpkgs=/nix/var/nix/profiles/per-user/root/channels/nixos" "nixos-config=/etc/nixos/configuration.nix" ] "NIX_PATH of logins.";
    channel.enable = mkOption { type = types.bool; default = true; description = "Stored only."; };
    registry = mkOption { type = types.attrsOf types.anything; default = { }; description = "Stored only."; };
    distributedBuilds = mkOption { type = types.bool; default = false; description = "Stored only."; };
    buildMachines = mkOption { type = types.listOf types.anything; default = [ ]; description = "Stored only."; };
    gc = {
      automatic = mkOption { type = types.bool; default = false; description = "Whether garbage is collected regularly."; };
      dates = mkOption {
        type = types.either types.singleLineStr (types.listOf types.str);
        default = "03:15";
        apply = lib.toList;
        description = "When.";
      };
      options = mkOption { type = types.singleLineStr; default = ""; description = "Options of nix-collect-garbage."; };
    };
    settings = mkOption {
      default = { };
      description = "Settings of nix.conf.";
      type = types.submodule {
        freeformType = types.attrsOf value;
        options = {
          max-jobs = mkOption {
            type = types.either types.int (types.enum [ "auto" ]);
            default = "auto";
            description = "Builds at once.";
          };
          cores = mkOption { type = types.int; default = 0; description = "Processors for a build."; };
          # The tools of this <nixpkgs> find their libraries in /usr/lib, which a sandbox would hide.
          sandbox = mkOption {
            type = types.either types.bool (types.enum [ "relaxed" ]);
            default = false;
            description = "Whether builds are isolated.";
          };
          auto-optimise-store = mkOption {
            type = types.bool;
            default = false;
            description = "Whether equal files are linked.";
          };
          # NixOS adds cache.nixos.org, which the machines of the local cloud cannot reach.
          substituters = strings [ ] "Caches.";
          trusted-substituters = strings [ ] "Caches that any user may use.";
          trusted-public-keys = strings [ ] "Keys that paths must be signed with.";
          require-sigs = mkOption { type = types.bool; default = true; description = "Whether paths must be signed."; };
          trusted-users = strings [ ] "Users that may do all that root may.";
          allowed-users = strings [ "*" ] "Users that may use Nix.";
          experimental-features = strings [ ] "Experimental features.";
          system-features = strings [ ] "Features of this machine.";
        };
      };
    };
  };

  config = {
    nix.settings.trusted-users = [ "root" ];
    environment.systemPackages = [ cfg.package ];
    environment.sessionVariables.NIX_PATH = lib.mkIf (cfg.nixPath != [ ]) cfg.nixPath;
    environment.etc."nix/nix.conf".text = ''
      # Made from nix.settings.
      build-users-group = nixbld
      ${lib.concatStrings (lib.mapAttrsToList (name: v: "${name} = ${show v}\n") written)}
      ${cfg.extraOptions}'';
    systemd.services.nix-gc = lib.mkIf cfg.gc.automatic {
      description = "Nix Garbage Collector";
      script = "exec ${cfg.package}/bin/nix-collect-garbage ${cfg.gc.options}";
      serviceConfig.Type = "oneshot";
      startAt = cfg.gc.dates;
    };
  };
}
