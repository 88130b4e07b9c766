# Functions, numbers, versions and messages.
{ lib }:
let
  inherit (builtins) trace readFile fromJSON;
  release = lib.strings.fileContents ../.version;
in
rec {
  id = x: x;
  const = x: _: x;
  pipe = builtins.foldl' (value: f: f value);
  concat = a: b: a ++ b;
  or = a: b: a || b;
  and = a: b: a && b;
  xor = a: b: a != b;
  mergeAttrs = a: b: a // b;
  flip = f: a: b: f b a;
  mapNullable = f: x: if x == null then null else f x;
  defaultTo = default: x: if x == null then default else x;
  boolToString = x: if x then "true" else "false";
  boolToYesNo = x: if x then "yes" else "no";
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  compare = a: b: if a < b then -1 else if a > b then 1 else 0;

  inherit (builtins) isInt isFloat isBool isPath typeOf add sub mul div lessThan seq deepSeq genericClosure bitAnd bitOr
    bitXor addErrorContext tryEval ceil floor pathExists readFile trace;

  # The least fixed point of f: how sets that refer to themselves are made.
  fix = f: let x = f x; in x;
  extends = overlay: f: final: let previous = f final; in previous // overlay final previous;
  composeExtensions = f: g: final: previous:
    let first = f final previous; in first // g final (previous // first);
  composeManyExtensions = lib.lists.foldr composeExtensions (_: _: { });
  makeExtensible = f: fix f // { extend = overlay: makeExtensible (extends overlay f); };

  # A set with `__functor` counts as a function, as everywhere in nixpkgs.
  isFunction = f: builtins.isFunction f || (f ? __functor && isFunction (f.__functor f));
  functionArgs = f:
    if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  mirrorFunctionArgs = f: g: setFunctionArgs g (functionArgs f);
  toFunction = v: if isFunction v then v else _: v;

  importJSON = path: fromJSON (readFile path);
  importTOML = path: builtins.fromTOML (readFile path);

  inherit release;
  codeName = "Local";
  versionSuffix = ".nixpipe";
  version = release + versionSuffix;
  oldestSupportedRelease = 2505;
  oldestSupportedReleaseIsAtLeast = r: r <= oldestSupportedRelease;
  nixpkgsVersion = version;
  inPureEvalMode = !(builtins ? currentSystem);
  inNixShell = builtins.getEnv "IN_NIX_SHELL" != "";

  warn = message: trace "warning: ${message}";
  traceVal = x: trace x x;
  traceValSeq = x: trace (builtins.deepSeq x x) x;
  traceSeq = x: trace (builtins.deepSeq x x);
  traceIf = condition: message: if condition then trace message else id;
  warnIf = condition: message: if condition then warn message else id;
  warnIfNot = condition: warnIf (!condition);
  info = message: trace "INFO: ${message}";
  showWarnings = warnings: value: builtins.foldl' (rest: message: warn message rest) value warnings;
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  checkListOfEnum = message: valid: given:
    let unknown = lib.lists.subtractLists valid given; in
    throwIfNot (unknown == [ ])
      "${message}: ${toString unknown} unexpected; valid ones: ${toString valid}";

  toHexString = i:
    let digits = lib.strings.stringToCharacters "0123456789ABCDEF"; in
    lib.strings.concatStrings (map (builtins.elemAt digits) (toBaseDigits 16 i));
  toBaseDigits = base: i:
    let go = n: if n < base then [ n ] else go (n / base) ++ [ (mod n base) ]; in go i;
}
