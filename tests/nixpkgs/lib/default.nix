# The library: every part under its own name (`lib.strings`) and, as in nixpkgs, its functions also at the top (`lib.concatStrings`).
let
  part = file: import file { inherit lib; };

  parts = {
    trivial = part ./trivial.nix;
    lists = part ./lists.nix;
    attrsets = part ./attrsets.nix;
    strings = part ./strings.nix;
    stringsWithDeps = part ./strings-with-deps.nix;
    sources = part ./sources.nix;
    generators = part ./generators.nix;
    options = part ./options.nix;
    modules = part ./modules.nix // part ./properties.nix // part ./renames.nix;
    types = part ./types.nix // part ./types-nested.nix;
    customisation = part ./customisation.nix;
    meta = part ./meta.nix;
    asserts = part ./asserts.nix;
    systems = part ./systems.nix;
  };

  # What nixpkgs has in its part alone, so that what evaluates here also does there.
  inItsPart = [
    "assertEachOneOf" "availableOn" "codeName" "commonPrefixLength" "defaultOrderPriority" "defaultOverridePriority"
    "escapeNixIdentifier" "escapeNixString" "filterOverrides'" "findFirstIndex" "floatToString" "importApply"
    "isConvertibleWithToString" "mkAliasAndWrapDefsWithPriority" "oldestSupportedRelease" "prioritySuggestion" "release"
    "replicate" "sanitizeDerivationName" "showDefs" "versionSuffix"
  ];
  atTheTop = with parts; trivial // lists // attrsets // strings // stringsWithDeps // sources // options // modules
    // customisation // meta // asserts;

  lib = parts // {
    inherit (parts.systems) platforms;
    # Metadata that modules and packages mention; nothing here reads it.
    maintainers = { };
    teams = { };
    licenses = { };
  } // removeAttrs atTheTop inItsPart // {
    inherit (parts.lists) replicate;
    inherit (parts.types) mkOptionType isType setType isOptionType defaultTypeMerge;
  };
in
lib
