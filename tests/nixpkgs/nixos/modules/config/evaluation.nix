# Evaluating a real NixOS takes hundreds of megabytes, this one a twentieth: `nixpipe.evaluation.megabytes` adds what is
# missing, for tests of how many machines can be evaluated in how much memory. What is built does not depend on it.
{ config, lib, ... }:
let
  # Measured with Nix 2.8 on x86_64: a set of one member in a list, evaluated, takes about 250 bytes.
  ballast = builtins.genList (i: { value = i; }) (config.nixpipe.evaluation.megabytes * 4000);
in
{
  options.nixpipe.evaluation.megabytes = lib.mkOption {
    type = lib.types.ints.unsigned;
    default = 0;
    description = "Memory that evaluating the toplevel needs besides its own, about.";
  };
  config.system.extraDependencies = builtins.deepSeq ballast [ ];
}
