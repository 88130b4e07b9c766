# Arguments that every module may name.
{ lib, ... }:
{
  _module.args = {
    utils = import ../../lib/utils.nix { inherit lib; };
    modulesPath = lib.mkOptionDefault (toString ../.);
  };
}
