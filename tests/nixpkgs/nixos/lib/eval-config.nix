# Evaluates a NixOS configuration: all modules of NixOS and those given.
{ # The system to evaluate for; null if the modules say it (nixpkgs.hostPlatform).
  system ? builtins.currentSystem or null
, # A package set made elsewhere.
  pkgs ? null
, baseModules ? import ../modules/module-list.nix
, # Arguments that `imports` may depend on, and those that it may not.
  specialArgs ? { }
, extraArgs ? { }
, modules
, # The file that errors name for modules that have none.
  modulesLocation ? (builtins.unsafeGetAttrPos "modules" args).file or null
, check ? true
, prefix ? [ ]
, lib ? import ../../lib
, extraModules ? [ ]
}@args:
let
  given = {
    _file = ./eval-config.nix;
    key = ./eval-config.nix;
    config = lib.mkMerge [
      (lib.optionalAttrs (system != null) { nixpkgs.system = lib.mkDefault system; })
      (lib.optionalAttrs (pkgs != null) { _module.args.pkgs = lib.mkForce pkgs; })
      {
        _module.args = extraArgs // { inherit extraModules; };
        _module.check = lib.mkDefault check;
      }
    ];
  };
  # Functions and sets passed straight to eval-config have no file of their own.
  located =
    if modulesLocation == null then modules
    else map (lib.setDefaultModuleLocation modulesLocation) modules;

  evaluated = lib.evalModules {
    inherit prefix;
    class = "nixos";
    specialArgs = { modulesPath = toString ../modules; } // specialArgs;
    modules = baseModules ++ extraModules ++ [ given ] ++ located;
  };

  withPackages = configuration: configuration // {
    inherit extraArgs lib;
    inherit (configuration._module.args) pkgs;
    extendModules = more: withPackages (configuration.extendModules more);
  };
in
withPackages evaluated
