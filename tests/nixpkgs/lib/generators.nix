# Text formats from Nix values.
{ lib }:
let
  inherit (builtins) isAttrs isBool isFloat isFunction isInt isList isPath isString mapAttrs toJSON;
  inherit (lib) concatStringsSep mapAttrsToList concatStrings;
in
rec {
  mkValueStringDefault = { }: v:
    if isInt v then toString v
    else if isString v || lib.isDerivation v || isPath v then toString v
    else if v == true then "true"
    else if v == false then "false"
    else if v == null then "null"
    else if isFloat v then lib.strings.floatToString v
    else throw "generators.mkValueStringDefault: a value of type ${builtins.typeOf v} has no text: ${toPretty { } v}";

  mkKeyValueDefault = { mkValueString ? mkValueStringDefault { } }: separator: key: value:
    "${lib.escape [ separator ] key}${separator}${mkValueString value}";

  toKeyValue = { mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false, indent ? "" }: attrs:
    let
      line = key: value: indent + mkKeyValue key value + "\n";
      lines = if listsAsDuplicateKeys then key: value: map (line key) (lib.toList value) else key: value: [ (line key value) ];
    in
    concatStrings (lib.concatLists (mapAttrsToList lines attrs));

  toINI = { mkSectionName ? lib.escape [ "[" "]" ], mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false }: sections:
    concatStringsSep "\n" (mapAttrsToList (name: values:
      "[${mkSectionName name}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } values) sections);

  toINIWithGlobalSection = args: { globalSection, sections ? { } }:
    let plain = removeAttrs args [ "mkSectionName" ]; in
    (if globalSection == { } then "" else toKeyValue plain globalSection + "\n") + toINI args sections;

  toJSON = { }: builtins.toJSON;
  toYAML = toJSON;

  # Cuts a value off below a depth, so that messages about deep or endless values end.
  withRecursion = { depthLimit, throwOnDepthLimit ? true }:
    let
      go = depth: v:
        if depth == 0 then
          if throwOnDepthLimit then throw "Exceeded maximum eval-depth limit of ${toString depthLimit}" else "<unevaluated>"
        else if lib.isDerivation v then v
        else if isAttrs v then mapAttrs (_: go (depth - 1)) v
        else if isList v then map (go (depth - 1)) v
        else v;
    in
    go depthLimit;

  # Nix syntax for people.
  toPretty = { allowPrettyValues ? false, multiline ? true, indent ? "" }@args: v:
    let
      inner = indent + "  ";
      deeper = toPretty (args // { indent = inner; });
      open = if multiline then "\n${inner}" else " ";
      close = if multiline then "\n${indent}" else " ";
    in
    if isString v then
      if multiline && lib.hasInfix "\n" v
      then "''\n${inner}${concatStringsSep "\n${inner}" (lib.splitString "\n" (builtins.replaceStrings [ "''" "\${" ] [ "'''" "''\${" ] v))}''"
      else lib.strings.escapeNixString v
    else if isInt v || isPath v then toString v
    else if isFloat v then builtins.toJSON v
    else if isBool v then lib.boolToString v
    else if v == null then "null"
    else if isList v then
      if v == [ ] then "[ ]" else "[${open}${concatStringsSep open (map deeper v)}${close}]"
    else if isFunction v then "<function>"
    else if isAttrs v then
      if v == { } then "{ }"
      else if lib.isDerivation v then "<derivation ${v.name or "???"}>"
      else "{${open}${concatStringsSep open (mapAttrsToList (name: value: "${lib.strings.escapeNixIdentifier name} = ${deeper value};") v)}${close}}"
    else "<${builtins.typeOf v}>";
}
