# `pkgs.formats`: a type for the settings of a program, and the function that writes them to a file.
{ lib, pkgs }:
let
  inherit (lib) types;
  atom = types.nullOr (types.oneOf [ types.bool types.int types.float types.str types.path ]);
  jsonValue = types.nullOr (types.oneOf [
    types.bool types.int types.float types.str types.path (types.attrsOf jsonValue) (types.listOf jsonValue)
  ]) // { description = "JSON value"; };
  asJson = { }: {
    type = jsonValue;
    generate = name: value: pkgs.writeText name (builtins.toJSON value);
  };
in
{
  json = asJson;
  # JSON is YAML.
  yaml = asJson;
  keyValue = { listsAsDuplicateKeys ? false, listToValue ? null, mkKeyValue ? lib.generators.mkKeyValueDefault { } "=", ... }: {
    type = types.attrsOf (if listsAsDuplicateKeys || listToValue != null then types.either atom (types.listOf atom) else atom);
    generate = name: value: pkgs.writeText name (lib.generators.toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; }
      (lib.mapAttrs (_: v: if listToValue != null && lib.isList v then listToValue v else v) value));
  };
  ini = { listsAsDuplicateKeys ? false, mkKeyValue ? lib.generators.mkKeyValueDefault { } "=", ... }: {
    type = types.attrsOf (types.attrsOf (if listsAsDuplicateKeys then types.either atom (types.listOf atom) else atom));
    generate = name: value: pkgs.writeText name (lib.generators.toINI { inherit mkKeyValue listsAsDuplicateKeys; } value);
  };
}
