# Declaring options, merging plain values, and the words of error messages.
{ lib }:
let
  inherit (builtins) all concatStringsSep filter head length match tail isString split;
in
rec {
  isOption = x: x._type or "" == "option";
  mkOption = attrs: attrs // { _type = "option"; };
  mkEnableOption = name: mkOption {
    default = false;
    example = true;
    description = "Whether to enable ${name}.";
    type = lib.types.bool;
  };
  mkPackageOption = pkgs: name: { default ? name, nullable ? false, example ? null, extraDescription ? "", pkgsText ? "pkgs" }:
    let
      names = if isString name then [ name ] else name;
      path = if isString default then [ default ] else default;
    in
    mkOption ({
      type = (if nullable then lib.types.nullOr else lib.id) lib.types.package;
      description = "The ${concatStringsSep "." names} package to use.";
    } // lib.optionalAttrs (default != null) { default = lib.getAttrFromPath path pkgs; });

  literalExpression = text: { _type = "literalExpression"; inherit text; };
  literalMD = text: { _type = "literalMD"; inherit text; };

  mergeDefaultOption = loc: defs:
    let values = getValues defs; in
    if length values == 1 then head values
    else if all builtins.isAttrs values then builtins.foldl' (a: b: a // b) { } values
    else if all builtins.isList values then builtins.concatLists values
    else if all isString values then lib.concatStrings values
    else if all builtins.isBool values then lib.any lib.id values
    else if all builtins.isFunction values then x: mergeDefaultOption loc (map (d: d // { value = d.value x; }) defs)
    else throw "Cannot merge definitions of `${showOption loc}'. Definition values:${showDefs defs}";

  mergeOneOption = mergeUniqueOption { message = ""; };
  mergeUniqueOption = { message, merge ? null }: loc: defs:
    if length defs == 1 then (if merge == null then (head defs).value else merge loc defs)
    else throw ("The option `${showOption loc}' is defined multiple times while it's expected to be unique.\n${message}\n"
      + "Definition values:${showDefs defs}\n${prioritySuggestion}");

  mergeEqualOption = loc: defs:
    if length defs == 1 then (head defs).value
    else (builtins.foldl' (first: def:
      if def.value != first.value
      then throw "The option `${showOption loc}' has conflicting definition values:${showDefs [ first def ]}\n${prioritySuggestion}"
      else first) (head defs) (tail defs)).value;

  prioritySuggestion =
    "Use `lib.mkForce value` or `lib.mkDefault value` to change the priority on any of these definitions.";

  getValues = map (def: def.value);
  getFiles = map (def: def.file);

  # The name of an option as one would type it.
  showOption = parts:
    let
      quote = part:
        if part == "*" || match "[a-zA-Z_][a-zA-Z0-9_'-]*" part != null || match "<.*>" part != null then part
        else lib.strings.escapeNixString part;
    in
    concatStringsSep "." (map quote parts);

  showFiles = files: lib.concatMapStringsSep " and " (f: "`${f}'") files;

  # A list of definitions, each with its file and the beginning of its value where that can be shown.
  showDefs = defs: lib.concatMapStrings (def:
    let
      shallow = lib.generators.withRecursion { depthLimit = 10; throwOnDepthLimit = false; };
      shown = builtins.tryEval (lib.generators.toPretty { } (shallow def.value));
      lines = filter isString (split "\n" shown.value);
      text = concatStringsSep "\n    " (lib.take 5 lines ++ lib.optional (length lines > 5) "...");
      value = if !shown.success then "" else if length lines > 1 then ":\n    ${text}" else ": ${text}";
    in
    "\n- In `${def.file}'${value}") defs;
}
