# Functions on strings.
{ lib }:
let
  inherit (builtins) stringLength substring replaceStrings match split genList isString isPath filter isList head;
in
rec {
  inherit (builtins) concatStringsSep stringLength substring replaceStrings match split isString toJSON fromJSON
    compareVersions readFile hashString baseNameOf;

  concatStrings = concatStringsSep "";
  concatMapStrings = f: list: concatStrings (map f list);
  concatImapStrings = f: list: concatStrings (lib.imap1 f list);
  concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
  concatImapStringsSep = separator: f: list: concatStringsSep separator (lib.imap1 f list);
  concatLines = concatMapStrings (line: line + "\n");
  intersperse = separator: list:
    if list == [ ] then [ ] else [ (head list) ] ++ lib.concatMap (x: [ separator x ]) (builtins.tail list);
  join = concatStringsSep;
  replicate = n: s: concatStrings (lib.lists.replicate n s);
  optionalString = condition: s: if condition then s else "";

  makeSearchPath = sub: paths: concatStringsSep ":" (map (path: path + "/" + sub) (filter (x: x != null) paths));
  makeSearchPathOutput = output: sub: packages: makeSearchPath sub (map (lib.getOutput output) packages);
  makeBinPath = makeSearchPathOutput "bin" "bin";
  makeLibraryPath = makeSearchPathOutput "lib" "lib";

  hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
  hasSuffix = suffix: s:
    let extra = stringLength s - stringLength suffix; in
    extra >= 0 && substring extra (stringLength suffix) s == suffix;
  hasInfix = infix: s: stringLength (replaceStrings [ infix ] [ "" ] s) != stringLength s || infix == "";
  removePrefix = prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (-1) s else s;
  removeSuffix = suffix: s: if hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;

  stringToCharacters = s: genList (i: substring i 1 s) (stringLength s);
  stringAsChars = f: s: concatStrings (map f (stringToCharacters s));
  splitString = separator: s:
    filter isString (split (escapeRegex separator) s);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escape = characters: replaceStrings characters (map (c: "\\" + c) characters);
  escapeC = escape;
  escapeXML = replaceStrings [ "\"" "'" "<" ">" "&" ] [ "&quot;" "&apos;" "&lt;" "&gt;" "&amp;" ];
  replaceString = from: to: replaceStrings [ from ] [ to ];
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  toSentenceCase = s: toUpper (substring 0 1 s) + toLower (substring 1 (-1) s);
  trim = trimWith { start = true; end = true; };
  trimWith = { start ? false, end ? false }: s:
    let
      white = "[ \t\r\n]*";
      text = "(.*[^ \t\r\n])";
      noStart = if start then lib.last (match "${white}(.*)" s) else s;
      noEnd = let m = match "${text}${white}" noStart; in if m == null then "" else head m;
    in
    if end then noEnd else noStart;
  fixedWidthString = width: filler: s:
    let missing = width - stringLength s; in
    if missing < 0 then throw "fixedWidthString: `${s}' is longer than ${toString width}"
    else replicate missing filler + s;
  fixedWidthNumber = width: n: fixedWidthString width "0" (toString n);
  commonPrefixLength = a: b:
    let
      n = lib.min (stringLength a) (stringLength b);
      go = i: if i < n && substring i 1 a == substring i 1 b then go (i + 1) else i;
    in
    go 0;

  # Quoting for a POSIX shell. Plain words stay as they are, so that generated scripts remain readable.
  escapeShellArg = arg:
    let s = toString arg; in
    if match "[[:alnum:],._+:@%/-]+" s == null then "'${replaceStrings [ "'" ] [ "'\\''" ] s}'" else s;
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  isValidPosixName = name: match "[a-zA-Z_][a-zA-Z0-9_]*" name != null;
  toShellVar = name: value:
    if lib.isAttrs value && !isStringLike value
    then throw "toShellVar: `${name}' is a set, and a POSIX shell has none"
    else "${name}=${if isList value then "(${escapeShellArgs value})" else escapeShellArg value}";
  toShellVars = vars: concatStringsSep "\n" (lib.mapAttrsToList toShellVar vars);
  escapeNixString = s: replaceStrings [ "$" ] [ "\\$" ] (toJSON s);
  escapeNixIdentifier = s: if match "[a-zA-Z_][a-zA-Z0-9_'-]*" s != null then s else escapeNixString s;

  isStringLike = x: isString x || isPath x || x ? outPath || x ? __toString;
  isConvertibleWithToString = x:
    isStringLike x || x == null || builtins.isInt x || builtins.isFloat x || builtins.isBool x
    || (isList x && lib.all isConvertibleWithToString x);
  isStorePath = x:
    isStringLike x && !isList x
    && (let s = toString x; in
      substring 0 1 s == "/" && dirOf s == builtins.storeDir && stringLength (baseNameOf s) > 33);

  versionOlder = a: b: compareVersions b a == 1;
  versionAtLeast = a: b: !(versionOlder a b);
  versions = {
    splitVersion = builtins.splitVersion;
    major = v: lib.elemAt (builtins.splitVersion v) 0;
    minor = v: lib.elemAt (builtins.splitVersion v) 1;
    majorMinor = v: concatStringsSep "." (lib.take 2 (builtins.splitVersion v));
  };
  getVersion = x: if isString x then (builtins.parseDrvName x).version else x.version or (builtins.parseDrvName x.name).version;
  getName = x: if isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;
  nameFromURL = url: separator: head (splitString separator (lib.last (splitString "/" url)));

  fileContents = file: removeSuffix "\n" (readFile file);
  toInt = s:
    if match "[[:space:]]*-?[0-9]+[[:space:]]*" s == null then throw "toInt: Could not convert ${escapeNixString s} to int."
    else if match "[[:space:]]*-?0[0-9]+[[:space:]]*" s != null
    then throw "toInt: Ambiguity in interpretation of ${escapeNixString s} between octal and zero padded integer."
    else fromJSON s;
  toIntBase10 = s: toInt (let m = match "0*([0-9]+)" s; in if m == null then s else head m);
  floatToString = toString;
  # Names of derivations may hold only these characters (Nix manual, `derivation`).
  sanitizeDerivationName = s:
    let
      parts = filter (p: p != "") (map (p: if isList p then "-" else p) (split "[^[:alnum:]+._?=-]+" s));
      withoutDots = name: if hasPrefix "." name then withoutDots (substring 1 (-1) name) else name;
      name = withoutDots (concatStrings parts);
    in
    if name == "" then "unknown" else substring 0 207 name;
  addContextFrom = from: to: substring 0 0 from + to;
  enableFeature = flag: name: "--${if flag then "enable" else "disable"}-${name}";
}
