# Types of options that hold one plain value. Those made from other types are in types-nested.nix.
{ lib }:
let
  inherit (builtins) isAttrs isBool isFloat isInt isString isPath elem match;
  inherit (lib) mergeEqualOption mergeOneOption mergeDefaultOption;

  # Two declarations of one option are one if their types are the same, or can be made one.
  defaultTypeMerge = f: f':
    let
      wrapped = f.wrapped.typeMerge f'.wrapped.functor;
      payload = f.binOp f.payload f'.payload;
    in
    if f.name != f'.name then null
    else if f.wrapped != null && f'.wrapped != null then (if wrapped == null then null else f.type wrapped)
    else if f.payload != null && f'.payload != null then (if payload == null then null else f.type payload)
    else f.type;
in
rec {
  inherit defaultTypeMerge;
  isType = kind: x: x._type or "" == kind;
  setType = kind: x: x // { _type = kind; };
  isOptionType = isType "option-type";

  defaultFunctor = name: {
    inherit name;
    type = lib.types.${name} or null;
    wrapped = null;
    payload = null;
    binOp = _: _: null;
  };

  # The description of a type inside another's, in brackets where the words would run together.
  descriptionIn = plain: type:
    if builtins.elem type.descriptionClass plain then type.description else "(${type.description})";

  mkOptionType = { name, description ? name, descriptionClass ? "noun", check ? (_: true), merge ? mergeDefaultOption
    , emptyValue ? { }, functor ? defaultFunctor name, typeMerge ? defaultTypeMerge functor, nestedTypes ? { }
    , getSubModules ? null, substSubModules ? (_: null), getSubOptions ? (_: { }), deprecationMessage ? null }: {
    _type = "option-type";
    inherit name description descriptionClass check merge emptyValue functor typeMerge nestedTypes getSubModules
      substSubModules getSubOptions deprecationMessage;
  };

  unspecified = mkOptionType { name = "unspecified"; description = "unspecified value"; };
  raw = mkOptionType { name = "raw"; description = "raw value"; merge = mergeOneOption; };
  bool = mkOptionType { name = "bool"; description = "boolean"; check = isBool; merge = mergeEqualOption; };
  boolByOr = mkOptionType {
    name = "boolByOr";
    description = "boolean (merged using or)";
    check = isBool;
    merge = _: defs: lib.any (d: d.value) defs;
  };
  int = mkOptionType { name = "int"; description = "signed integer"; check = isInt; merge = mergeEqualOption; };
  float = mkOptionType { name = "float"; description = "floating point number"; check = isFloat; merge = mergeEqualOption; };
  number = lib.types.either int float;
  numbers = {
    between = low: high: addCheck number (x: x >= low && x <= high) // {
      description = "integer or floating point number between ${toString low} and ${toString high} (both inclusive)";
    };
    nonnegative = addCheck number (x: x >= 0) // { description = "nonnegative integer or floating point number, meaning >=0"; };
    positive = addCheck number (x: x > 0) // { description = "positive integer or floating point number, meaning >0"; };
  };

  ints =
    let
      within = name: text: low: high: int // {
        inherit name;
        check = x: isInt x && x >= low && x <= high;
        description = "${text}; between ${toString low} and ${toString high} (both inclusive)";
        functor = defaultFunctor name // { type = within name text low high; };
        typeMerge = other: if other.name == name then within name text low high else null;
      };
      atLeast = name: text: low: int // {
        inherit name;
        check = x: isInt x && x >= low;
        description = text;
        descriptionClass = "nonRestrictiveClause";
        functor = defaultFunctor name // { type = atLeast name text low; };
        typeMerge = other: if other.name == name then atLeast name text low else null;
      };
    in
    {
      between = low: high: within "intBetween" "integer" low high // {
        description = "integer between ${toString low} and ${toString high} (both inclusive)";
      };
      unsigned = atLeast "unsignedInt" "unsigned integer, meaning >=0" 0;
      positive = atLeast "positiveInt" "positive integer, meaning >0" 1;
      u8 = within "unsignedInt8" "8 bit unsigned integer" 0 255;
      u16 = within "unsignedInt16" "16 bit unsigned integer" 0 65535;
      u32 = within "unsignedInt32" "32 bit unsigned integer" 0 4294967295;
      s8 = within "signedInt8" "8 bit signed integer" (-128) 127;
      s16 = within "signedInt16" "16 bit signed integer" (-32768) 32767;
      s32 = within "signedInt32" "32 bit signed integer" (-2147483648) 2147483647;
    };
  port = ints.u16;

  str = mkOptionType { name = "str"; description = "string"; check = isString; merge = mergeEqualOption; };
  singleLineStr = str // {
    name = "singleLineStr";
    description = "(optionally newline-terminated) single-line string";
    check = x: isString x && match "[^\n\r]*\n?" x != null;
    merge = loc: defs: lib.removeSuffix "\n" (mergeEqualOption loc defs);
  };
  nonEmptyStr = str // {
    name = "nonEmptyStr";
    description = "non-empty string";
    check = x: isString x && match "[ \t\n]*" x == null;
  };
  strMatching = pattern: str // {
    name = "strMatching ${lib.strings.escapeNixString pattern}";
    description = "string matching the pattern ${pattern}";
    check = x: isString x && match pattern x != null;
    functor = defaultFunctor "strMatching" // { type = strMatching pattern; };
    typeMerge = other: if other.name == "strMatching" then strMatching pattern else null;
  };
  separatedString = separator: mkOptionType {
    name = "separatedString";
    description = "strings concatenated with ${builtins.toJSON separator}";
    check = isString;
    merge = _: defs: lib.concatStringsSep separator (lib.getValues defs);
    functor = defaultFunctor "separatedString" // {
      type = separatedString;
      payload = separator;
      binOp = a: b: if a == b then a else null;
    };
  };
  lines = separatedString "\n";
  commas = separatedString ",";
  envVar = separatedString ":";
  passwdEntry = entry: addCheck entry (x: !(isString x) || match "[^:\n]*" x != null) // {
    name = "passwdEntry ${entry.name}";
    descriptionClass = "nonRestrictiveClause";
    description = "${descriptionIn [ "noun" ] entry}, not containing newlines or colons";
  };

  path = mkOptionType {
    name = "path";
    description = "absolute path";
    check = x: lib.isStringLike x && builtins.substring 0 1 (toString x) == "/";
    merge = mergeEqualOption;
  };
  pathInStore = path // {
    name = "pathInStore";
    description = "path in the Nix store";
    check = x: lib.isStringLike x && lib.hasPrefix "${builtins.storeDir}/" (toString x);
  };
  package = mkOptionType {
    name = "package";
    description = "package";
    check = x: lib.isDerivation x || lib.isStorePath x;
    merge = loc: defs:
      let one = mergeOneOption loc defs; in
      if isPath one || (isString one && !builtins.hasContext one) then lib.toDerivation one else one;
  };
  shellPackage = package // { check = x: lib.isDerivation x && x ? shellPath; };
  pkgs = mkOptionType {
    name = "pkgs";
    description = "Nixpkgs package set";
    check = x: isAttrs x && x ? lib && x ? system;
    merge = mergeOneOption;
  };

  enum = values: mkOptionType {
    name = "enum";
    descriptionClass = if builtins.length values < 2 then "noun" else "conjunction";
    description =
      let
        show = v:
          if isString v then ''"${v}"'' else if isInt v then toString v
          else if isBool v then lib.boolToString v else "<${builtins.typeOf v}>";
      in
      if values == [ ] then "impossible (empty enum)"
      else if builtins.length values == 1 then "value ${show (builtins.head values)} (singular enum)"
      else "one of ${lib.concatMapStringsSep ", " show values}";
    check = x: elem x values;
    merge = mergeEqualOption;
    functor = defaultFunctor "enum" // { type = enum; payload = values; binOp = a: b: lib.unique (a ++ b); };
  };

  attrs = mkOptionType {
    name = "attrs";
    description = "attribute set";
    check = isAttrs;
    merge = _: defs: builtins.foldl' (acc: d: acc // d.value) { } defs;
    emptyValue.value = { };
  };
  optionType = mkOptionType {
    name = "optionType";
    description = "optionType";
    check = isOptionType;
    merge = loc: defs: if builtins.length defs == 1 then (builtins.head defs).value else mergeOneOption loc defs;
  };

  addCheck = type: check: type // { check = x: type.check x && check x; };
}
