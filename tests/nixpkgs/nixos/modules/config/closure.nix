# A closure of realistic size for tests and benchmarks: `nixpipe.closure = { paths = 600; megabytes = 400; }`.
#
# Shape of a NixOS system: six in ten paths are a few files of some kilobytes, one in twenty holds most of the bytes; paths
# refer to a few others, more often to the early ones (libraries). About 35 % of the bytes cannot be compressed. The
# content depends on seed, number of paths and size alone; `changed = n` gives n of the small paths another content.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixpipe.closure;

  # Numbers below `below`, the same ones for the same words.
  number = words: below:
    let hex = builtins.substring 0 7 (builtins.hashString "sha256" "${toString cfg.seed}-${words}"); in
    lib.mod (builtins.fromTOML "n = 0x${hex}").n below;

  # Shares of the whole size, in units that make their sum known before any is chosen.
  kindOf = i:
    let n = number "kind-${toString i}" 100; in
    if n < 62 then "tiny" else if n < 90 then "small" else if n < 96 then "middle" else "big";
  weight = { tiny = 1; small = 12; middle = 150; big = 2200; };
  files = { tiny = 2; small = 12; middle = 25; big = 60; };
  indices = lib.range 0 (cfg.paths - 1);
  total = lib.foldl' (sum: i: sum + weight.${kindOf i}) 0 indices;
  sizeOf = i: cfg.megabytes * 1000000 / total * weight.${kindOf i};

  # Small paths change, as when a configuration does; the last ones, on which few others depend.
  changing = lib.take cfg.changed (lib.filter (i: kindOf i == "tiny") (lib.reverseList indices));

  referencesOf = i:
    if i == 0 then [ ]
    else lib.unique (map (k:
      let word = "reference-${toString i}-${toString k}"; in
      number word (if number "near-${word}" 10 < 6 then i else lib.min i 60))
      (lib.range 1 (number "count-${toString i}" 6)));

  paths = map (i:
    let revision = if lib.elem i changing then "2" else "1"; in
    derivation {
      name = "package-${toString i}-1.${toString (number "version-${toString i}" 30)}";
      inherit (pkgs) system;
      builder = "${pkgs.python3}/bin/python3";
      args = [ "-I" "-S" ./closure.py ];
      seed = "${toString cfg.seed}-${toString i}-${revision}";
      size = sizeOf i;
      files = files.${kindOf i};
      references = map (builtins.elemAt paths) (referencesOf i);
      preferLocalBuild = true;
      allowSubstitutes = false;
    }) indices;
in
{
  options.nixpipe.closure = {
    paths = mkOption { type = types.ints.unsigned; default = 0; description = "How many store paths are added."; };
    megabytes = mkOption {
      type = types.ints.unsigned;
      default = 0;
      description = "Their size together, in units of 1 000 000 bytes.";
    };
    seed = mkOption { type = types.int; default = 1; description = "Another seed gives other content."; };
    changed = mkOption {
      type = types.ints.unsigned;
      default = 0;
      description = "How many of the paths have another content.";
    };
  };
  config = {
    system.extraDependencies = paths;
    assertions = [ {
      assertion = cfg.changed <= lib.count (i: kindOf i == "tiny") indices;
      message = "nixpipe.closure.changed: of ${toString cfg.paths} paths fewer than ${toString cfg.changed} are small enough to change.";
    } ];
  };
}
