# The package set: `import <nixpkgs> { }`. The tools come from ./pkgs, the functions that make files from ./build-support.
{ system ? localSystem.system or builtins.currentSystem
, localSystem ? { }
, crossSystem ? null
, config ? { }
, overlays ? [ ]
}:
let
  lib = import ./lib;
  hostPlatform = lib.systems.elaborate system;

  # Arguments a function names, out of a set; so that the set itself is not needed to know the package names.
  callWith = scope: f: f (builtins.intersectAttrs (builtins.functionArgs f) scope);

  base = final: {
    inherit lib config overlays hostPlatform;
    inherit (hostPlatform) system;
    path = ./.;
    pkgs = final;
    buildPlatform = hostPlatform;
    targetPlatform = hostPlatform;
    callPackage = lib.callPackageWith final;
    callPackages = lib.callPackageWith final;
    nixos = configuration: (import ./nixos/lib/eval-config.nix {
      inherit system;
      modules = lib.toList configuration;
      pkgs = final;
    }).config.system.build // { inherit (final) system; };
    extend = overlay: import ./. { inherit system config; overlays = overlays ++ [ overlay ]; };
    appendOverlays = more: import ./. { inherit system config; overlays = overlays ++ more; };
  };

  layers = [
    (final: _: callWith (scope final) (import ./build-support))
    (final: _: callWith (scope final) (import ./pkgs))
  ] ++ overlays;
  # What the layers may ask for by name: everything, each member only when it is used.
  scope = final: {
    inherit lib system;
    pkgs = final;
    inherit (final) stdenv writeText writeTextFile writeTextDir writeScript writeScriptBin writeShellScript
      writeShellScriptBin runCommand runCommandLocal symlinkJoin buildEnv linkFarm;
  };
in
if crossSystem != null && crossSystem.system or crossSystem != system
then throw "this <nixpkgs> cannot cross-compile: name the machine's system with `system`"
# Asking for the platform's name refuses an unknown one.
else builtins.seq hostPlatform.config (lib.fix (lib.extends (lib.composeManyExtensions layers) base))
