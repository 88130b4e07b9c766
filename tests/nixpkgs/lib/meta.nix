# What a package says of itself.
{ lib }:
rec {
  # The program that a package is for.
  getExe = package: getExe' package (package.meta.mainProgram or (lib.getName package));
  getExe' = package: program:
    if lib.hasInfix "/" program then throw "lib.getExe': `${program}' is a path, give the name of a program"
    else "${lib.getBin package}/bin/${program}";
  addMetaAttrs = attrs: drv: drv // { meta = (drv.meta or { }) // attrs; };
  setName = name: drv: drv // { inherit name; };
  setPrio = priority: addMetaAttrs { inherit priority; };
  lowPrio = setPrio 10;
  hiPrio = setPrio (-10);
  availableOn = _: _: true;
}
