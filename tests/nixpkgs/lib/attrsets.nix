# Functions on attribute sets.
{ lib }:
let
  inherit (builtins) attrNames mapAttrs listToAttrs concatMap foldl' isAttrs zipAttrsWith head tail hasAttr;
in
rec {
  inherit (builtins) attrNames listToAttrs hasAttr isAttrs getAttr mapAttrs intersectAttrs removeAttrs catAttrs
    attrValues zipAttrsWith;

  nameValuePair = name: value: { inherit name value; };
  attrByPath = path: default: set:
    if path == [ ] then set
    else if set ? ${head path} then attrByPath (tail path) default set.${head path}
    else default;
  hasAttrByPath = path: set:
    path == [ ] || (set ? ${head path} && hasAttrByPath (tail path) set.${head path});
  setAttrByPath = path: value:
    if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  getAttrFromPath = path:
    attrByPath path (throw "cannot find attribute `${lib.concatStringsSep "." path}'");
  attrVals = names: set: map (name: set.${name}) names;
  getAttrs = names: set: genAttrs names (name: set.${name});

  filterAttrs = keep: set: removeAttrs set (builtins.filter (name: !(keep name set.${name})) (attrNames set));
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  genAttrs' = items: f: listToAttrs (map f items);
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  concatMapAttrs = f: set: foldl' (a: b: a // b) { } (mapAttrsToList f set);
  concatMapAttrsStringSep = separator: f: set: lib.concatStringsSep separator (mapAttrsToList f set);
  foldlAttrs = f: start: set: foldl' (acc: name: f acc name set.${name}) start (attrNames set);
  optionalAttrs = condition: set: if condition then set else { };
  mergeAttrsList = foldl' (a: b: a // b) { };
  zipAttrs = zipAttrsWith (_: values: values);
  foldAttrs = op: nul: sets: mapAttrs (_: lib.foldr op nul) (zipAttrs sets);
  filterAttrsRecursive = keep: set:
    mapAttrs (_: value: if isAttrs value then filterAttrsRecursive keep value else value) (filterAttrs keep set);
  mapCartesianProduct = f: sets: map f (cartesianProduct sets);
  overrideExisting = old: new: mapAttrs (name: value: new.${name} or value) old;

  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  mapAttrsRecursiveCond = descend: f:
    let
      go = path: mapAttrs (name: value:
        let here = path ++ [ name ]; in
        if isAttrs value && descend value then go here value else f here value);
    in
    go [ ];
  collect = keep: set:
    if keep set then [ set ]
    else if isAttrs set then concatMap (collect keep) (builtins.attrValues set)
    else [ ];
  cartesianProduct = sets:
    foldl' (rows: name: concatMap (row: map (v: row // { ${name} = v; }) sets.${name}) rows) [ { } ] (attrNames sets);

  recursiveUpdateUntil = stop: left: right:
    let
      go = path: zipAttrsWith (name: values:
        let here = path ++ [ name ]; in
        if tail values == [ ] then head values
        else if stop here (lib.last values) (head values) then head values
        else go here values);
    in
    # The right one comes first, so that `head` is the one that wins.
    go [ ] [ right left ];
  recursiveUpdate = recursiveUpdateUntil (_: left: right: !(isAttrs left && isAttrs right));
  matchAttrs = pattern: set:
    builtins.all (name: set ? ${name} && (
      if isAttrs pattern.${name} then isAttrs set.${name} && matchAttrs pattern.${name} set.${name}
      else pattern.${name} == set.${name})) (attrNames pattern);
  updateManyAttrsByPath = updates: set:
    foldl' (acc: { path, update }:
      recursiveUpdateUntil (here: _: _: here == path) acc
        (setAttrByPath path (update (getAttrFromPath path acc)))) set updates;

  recurseIntoAttrs = set: set // { recurseForDerivations = true; };
  dontRecurseIntoAttrs = set: set // { recurseForDerivations = false; };

  isDerivation = value: value.type or null == "derivation";
  # A store path that only looks like a derivation, for options of type package.
  toDerivation = path:
    let
      path' = builtins.storePath path;
    in
    {
      type = "derivation";
      name = lib.strings.sanitizeDerivationName
        (builtins.unsafeDiscardStringContext (builtins.substring 33 (-1) (baseNameOf path')));
      outPath = path';
      outputs = [ "out" ];
      outputName = "out";
      out = toDerivation path;
    };

  getOutput = output: package:
    if !package ? outputSpecified || !package.outputSpecified
    then package.${output} or package.out or package
    else package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  getMan = getOutput "man";
}
