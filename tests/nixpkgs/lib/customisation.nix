# Calling and overriding packages.
{ lib }:
let
  inherit (builtins) intersectAttrs isAttrs;
in
rec {
  makeOverridable = f: args:
    let result = f args; in
    if isAttrs result then result // {
      override = new: makeOverridable f (args // (if lib.isFunction new then new args else new));
      overrideDerivation = g: overrideDerivation result g;
    } else result;
  overrideDerivation = drv: f: lib.extendDerivation true { } (derivation (drv.drvAttrs // f drv));
  callPackageWith = scope: fn: args:
    let f = if lib.isFunction fn then fn else import fn; in
    makeOverridable f (intersectAttrs (lib.functionArgs f) scope // args);
  callPackagesWith = callPackageWith;
  extendDerivation = condition: passthru: drv:
    drv // passthru // { outPath = assert condition; drv.outPath; drvPath = assert condition; drv.drvPath; };
  hydraJob = lib.id;
}
