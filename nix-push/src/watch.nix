# Nix's builtins, but those that look at the world say on stderr what they look at, before they do.
#
# `scope` takes their place in every file, as `scopedImport` gives it to a file that is imported, and `import` below to
# those that it imports in turn. What a builtin returns stays what it is. One that is not known here is taken to look at
# what nobody can check. Path literals that are copied to the store need none of them: Nix says so by itself (-vv).
roots:
let
  text = path: builtins.unsafeDiscardStringContext (toString path);
  say = what: builtins.trace "nixpipe-read ${builtins.toJSON what}";
  unsure = name: say [ "unsure" "builtins.${name}" ];

  # Nix evaluates a file once, however often it is imported, but forgets it with `scopedImport`. So each file has its place
  # in a tree of folders that grows where somebody looks.
  place = where: {
    value = say [ "file" where ] (builtins.scopedImport scope (/. + where));
    below = builtins.mapAttrs (name: _: place "${where}/${name}") (builtins.readDir (/. + where));
  };
  places = builtins.listToAttrs (map (root: { name = root; value = place root; }) roots);
  # The place of a path: that of its root, then step by step.
  find = name:
    let
      root = builtins.head (builtins.filter (root: within root name) roots ++ [ null ]);
      rest = builtins.substring (builtins.stringLength root) (-1) name;
      steps = builtins.filter (step: builtins.isString step && step != "") (builtins.split "/" rest);
      down = at: step: if at == null then null else at.below.${step} or null;
    in
    if root == null then null else builtins.foldl' down places.${root} steps;
  within = root: name: builtins.substring 0 (builtins.stringLength root + 1) (name + "/") == root + "/";

  # <nix/fetchurl.nix>, a file that Nix has in itself.
  own = (builtins.tryEval (builtins.findFile [ ] "nix/fetchurl.nix")).value;

  import = path:
    let
      name = text path;
      # What a derivation makes may have to be built first.
      known = if builtins.hasContext (toString path) then null else find name;
    in
    if path == own then builtins.import path
    else if known == null then say [ "file" name ] (builtins.scopedImport scope path) else known.value;

  # What its hash or revision names cannot change. (A hash says nothing of the time and the revision that fetchTree
  # returns with a tree, and a revision nothing of a tree that is none of git's or Mercurial's.)
  fetch = name: fixed:
    let real = builtins.${name}; in
    args: if builtins.isAttrs args && fixed args then real args else unsure name (real args);
  byHash = args: args ? sha256;
  byRevision = args: builtins.stringLength (args.rev or "") == 40;
  byTypedRevision = args: byRevision args && builtins.elem (args.type or "") [ "git" "hg" "github" "gitlab" "sourcehut" ];

  watched = {
    inherit import;
    scopedImport = names: path: say [ "file" (text path) ] (builtins.scopedImport (scope // names) path);
    readFile = path: say [ "file" (text path) ] (builtins.readFile path);
    hashFile = type: path: say [ "file" (text path) ] (builtins.hashFile type path);
    readDir = path: say [ "folder" (text path) ] (builtins.readDir path);
    readFileType = path: say [ "kind" (text path) ] (builtins.readFileType path);
    pathExists = path:
      let there = builtins.pathExists path; in
      say [ (if there then "there" else "absent") (text path) ] there;
    findFile = list: name:
      let
        found = builtins.findFile list name;
        tried = builtins.tryEval found;
        where = if tried.success && tried.value != own then text tried.value else null;
      in
      say [ "search" (map (entry: [ (entry.prefix or "") (text entry.path) ]) list) name where ] found;
    filterSource = filter: path: say [ "tree" (text path) ] (builtins.filterSource filter path);
    path = args: say [ "tree" (text args.path) ] (builtins.path args);
    # It follows links to the store.
    storePath = path: say [ "there" (text path) ] (builtins.storePath path);
    getEnv = name: say [ "variable" name ] (builtins.getEnv name);
    fetchurl = fetch "fetchurl" byHash;
    fetchTarball = fetch "fetchTarball" byHash;
    fetchGit = fetch "fetchGit" byRevision;
    fetchMercurial = fetch "fetchMercurial" byRevision;
    fetchTree = fetch "fetchTree" byTypedRevision;
  };
  # Those that look at nothing but their arguments, at what Nix was started with, or at valid store paths.
  pure = [
    "abort" "add" "addDrvOutputDependencies" "addErrorContext" "all" "any" "appendContext" "attrNames" "attrValues"
    "baseNameOf" "bitAnd" "bitOr" "bitXor" "break" "builtins" "catAttrs" "ceil" "compareVersions" "concatLists" "concatMap"
    "concatStringsSep" "convertHash" "currentSystem" "deepSeq" "derivation" "derivationStrict" "dirOf" "div" "elem" "elemAt"
    "false" "filter" "flakeRefToString" "floor" "foldl'" "fromJSON" "fromTOML" "functionArgs" "genList" "genericClosure"
    "getAttr" "getContext" "groupBy" "hasAttr" "hasContext" "hashString" "head" "intersectAttrs" "isAttrs" "isBool"
    "isFloat" "isFunction" "isInt" "isList" "isNull" "isPath" "isString" "langVersion" "length" "lessThan" "listToAttrs"
    "map" "mapAttrs" "match" "mul" "nixPath" "nixVersion" "null" "parseDrvName" "parseFlakeRef" "partition" "placeholder"
    "removeAttrs" "replaceStrings" "seq" "sort" "split" "splitVersion" "storeDir" "stringLength" "sub"
    "substring" "tail" "throw" "toFile" "toJSON" "toPath" "toString" "toXML" "trace" "traceVerbose" "true" "tryEval"
    "typeOf" "unsafeDiscardOutputDependency" "unsafeDiscardStringContext" "unsafeGetAttrPos" "warn" "zipAttrsWith"
  ];
  others = builtins.mapAttrs unsure (builtins.removeAttrs builtins (pure ++ builtins.attrNames watched));
  changed = builtins.intersectAttrs builtins watched // others;
  hidden = builtins.listToAttrs (map (name: { name = "__${name}"; value = changed.${name}; }) (builtins.attrNames changed));
  # Nix knows these without `builtins.` or underscores (src/libexpr/primops.cc).
  bare = builtins.intersectAttrs {
    import = 0; scopedImport = 0; fetchGit = 0; fetchMercurial = 0; fetchTarball = 0; fetchTree = 0;
  } changed;
  scope = hidden // bare // { builtins = builtins // changed // { builtins = scope.builtins; }; };

  # Proof that this Nix tells of what it copies: a path that it did not know.
  canary = "${/. + builtins.unsafeDiscardStringContext (builtins.toFile "nixpipe-canary" "")}";
in
builtins.seq canary scope
