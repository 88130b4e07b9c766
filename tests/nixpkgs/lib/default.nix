# The library: every part under its own name (`lib.strings`) and, as in nixpkgs, its functions also at the top (`lib.concatStrings`).
let
  part = file: import file { inherit lib; };

  parts = {
    trivial = part ./trivial.nix;
    lists = part ./lists.nix;
    attrsets = part ./attrsets.nix;
    strings = part ./strings.nix;
    generators = part ./generators.nix;
    options = part ./options.nix;
    modules = part ./modules.nix // part ./properties.nix // part ./renames.nix;
    types = part ./types.nix // part ./types-nested.nix;
    customisation = part ./customisation.nix;
    meta = part ./meta.nix;
    asserts = part ./asserts.nix;
    systems = part ./systems.nix;
  };

  lib = parts // {
    inherit (parts.systems) platforms;
    # Metadata that modules and packages mention; nothing here reads it.
    maintainers = { };
    teams = { };
    licenses = { };
  } // parts.trivial // parts.lists // parts.attrsets // parts.strings // parts.options // parts.modules
    // parts.customisation // parts.meta // parts.asserts;
in
lib
