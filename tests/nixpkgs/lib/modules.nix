# evalModules: collects modules, merges what they declare and define, and gives the configuration.
{ lib }:
let
  inherit (builtins) addErrorContext attrNames concatLists concatMap elem filter genericClosure head isAttrs isList
    isString length mapAttrs removeAttrs toString typeOf zipAttrsWith;
  inherit (lib) isOption mkOption showOption types pushDownProperties;
  inherit (lib.options) showDefs;

  # Members of a module that are neither options nor configuration.
  special = [ "_class" "_file" "key" "disabledModules" "imports" "freeformType" ];

  # Brings any form of module (path, function, set) into one: { _file, key, disabledModules, imports, options, config }.
  loadModule = args: file: key: m:
    if lib.isFunction m then unify file key (applyModule key m args)
    else if isAttrs m then
      let kind = m._type or "module"; in
      if kind == "module" then unify file key m
      else if kind == "if" || kind == "override" || kind == "merge"
      then loadModule args file key { _file = file; inherit key; config = m; }
      else throw ("Could not load a value as a module, because it is of type ${lib.strings.escapeNixString kind}, "
        + "in file ${toString (m._file or file)}.")
    else if isList m then throw ("Module imports can't be nested lists. Perhaps you meant to remove one level of lists? "
      + "Definitions: ${showDefs [ { value = m; file = toString file; } ]}")
    else
      let
        path = toString m;
        value = import m;
      in
      unify path path (if lib.isFunction value then applyModule path value args else value);

  # Named arguments that are not given at once come, lazily, from `_module.args`.
  applyModule = key: f: args:
    let
      named = mapAttrs (name: _:
        addErrorContext "while evaluating the module argument `${name}' in \"${key}\":"
          (args.${name} or args.config._module.args.${name})) (lib.functionArgs f);
    in
    f (args // named);

  unify = file: key: m:
    let
      common = {
        _file = toString (m._file or file);
        key = toString (m.key or key);
        disabledModules = m.disabledModules or [ ];
        imports = m.imports or [ ];
      };
      withFreeform = config:
        if m ? freeformType then lib.mkMerge [ config { _module.freeformType = m.freeformType; } ] else config;
      unknown = removeAttrs m (special ++ [ "options" "config" "meta" ]);
    in
    if !isAttrs m then throw ("Module `${key}' (${toString file}) does not look like a module: "
      + "it is a value of type ${typeOf m}, not a function or an attribute set.")
    else if m ? config || m ? options then
      if unknown != { } then
        throw ("Module `${key}' has an unsupported attribute `${head (attrNames unknown)}'. "
          + "This is caused by introducing a top-level `config' or `options' attribute. "
          + "Add configuration attributes immediately on the top level instead, or move all of them "
          + "(namely: ${toString (attrNames unknown)}) into the explicit `config' attribute.")
      else common // {
        options = m.options or { };
        config = withFreeform (if m ? meta then lib.mkMerge [ (m.config or { }) { inherit (m) meta; } ] else m.config or { });
      }
    else common // { options = { }; config = withFreeform (removeAttrs m special); };

  # All modules with their imports, each once (by key), without those that some module disables.
  collectModules = modulesPath: modules: args:
    let
      tree = parentFile: parentKey: ms:
        lib.imap1 (n: m:
          let module = loadModule args parentFile "${parentKey}:anon-${toString n}" m; in
          { inherit (module) key; inherit module; children = tree module._file module.key module.imports; }) ms;
      roots = tree "<unknown-file>" "" modules;
      closure = keep: genericClosure { startSet = filter keep roots; operator = node: filter keep node.children; };
      disabledKey = d:
        if isAttrs d then d.key or (throw "a set in disabledModules must have a member `key'")
        else if isString d && !lib.hasPrefix "/" d then toString modulesPath + "/" + d
        else toString d;
      disabled = concatMap (node: map disabledKey node.module.disabledModules) (closure (_: true));
    in
    map (node: node.module) (closure (if disabled == [ ] then (_: true) else (node: !(elem node.key disabled))));

  # One level of the tree of options. Gives the options there and the definitions for which there is none.
  mergeLevel = loc: decls: defs:
    let
      declsByName = zipAttrsWith (_: ds: ds) (map (d:
        if isAttrs d.options then mapAttrs (_: options: { inherit (d) file; inherit options; }) d.options
        else throw ("An option declaration for `${showOption loc}' has type `${typeOf d.options}' rather than an attribute set. "
          + "Did you mean to define this outside of `options'?")) decls);
      defsByName = zipAttrsWith (_: ds: ds) (concatMap (d:
        map (value:
          if isAttrs value then mapAttrs (_: value: { inherit (d) file; inherit value; }) value
          else throw ("In module `${d.file}', you're trying to define a value of type `${typeOf value}' rather than an "
            + "attribute set for the option `${showOption loc}'!\n\nThis usually happens if `${showOption loc}' has option "
            + "definitions inside that are not matched."))
          (pushDownProperties d.value)) defs);
      merged = mapAttrs (name: ds:
        let
          here = loc ++ [ name ];
          found = defsByName.${name} or [ ];
          options = filter (d: isOption d.options) ds;
        in
        if length options == length ds then {
          options = evalOption here (mergeDeclarations here ds) found;
          unmatched = [ ];
        }
        else if options == [ ] then mergeLevel here ds found
        else if (head options).options.type.name or "" == "submodule" then {
          # Options declared below an option that is a submodule extend that submodule.
          options = evalOption here (mergeDeclarations here (map (d:
            if isOption d.options then d
            else {
              inherit (d) file;
              options = mkOption { type = types.submodule { _file = d.file; inherit (d) options; }; };
            }) ds)) found;
          unmatched = [ ];
        }
        else throw ("The option `${showOption here}' in module `${(head options).file}' would be a parent of the options in module "
          + "`${(head (filter (d: !isOption d.options) ds)).file}', but its type `${
            (head options).options.type.description or "unspecified value"}' does not support nested options.")) declsByName;
      stray = removeAttrs defsByName (attrNames declsByName);
    in
    {
      options = mapAttrs (_: m: m.options) merged;
      unmatched = concatLists (lib.mapAttrsToList (name: map (d: { inherit (d) file value; path = loc ++ [ name ]; })) stray)
        ++ concatLists (lib.mapAttrsToList (_: m: m.unmatched) merged);
    };

  # One option from all places that declare it.
  mergeDeclarations = loc: decls:
    builtins.foldl' (acc: d:
      let
        opt = d.options;
        mergedType = acc.type.typeMerge opt.type.functor;
        twice = filter (name: acc ? ${name} && opt ? ${name}) [ "default" "example" "apply" "readOnly" ];
      in
      if twice != [ ] || (acc ? type && opt ? type && mergedType == null)
      then throw "The option `${showOption loc}' in `${d.file}' is already declared in ${lib.showFiles acc.declarations}."
      else acc // opt // {
        declarations = acc.declarations ++ [ d.file ];
      } // lib.optionalAttrs (acc ? type && opt ? type) { type = mergedType; })
      { inherit loc; declarations = [ ]; }
      decls;

  evalOption = loc: decl: defs:
    let
      opt = { type = types.unspecified; } // decl;
      all = lib.optional (opt ? default) { file = head opt.declarations; value = lib.mkOptionDefault opt.default; } ++ defs;
      merged =
        if (opt.readOnly or false) && length all > 1
        then throw ("The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:"
          + showDefs (map (d: d // { value = (lib.mergeDefinitions loc opt.type [ d ]).mergedValue; }) all))
        else lib.mergeDefinitions loc opt.type all;
    in
    opt // {
      _type = "option";
      value = addErrorContext "while evaluating the option `${showOption loc}':"
        (if opt ? apply then opt.apply merged.mergedValue else merged.mergedValue);
      inherit (merged.defsFinal') highestPrio;
      inherit (merged) isDefined;
      definitions = map (d: d.value) merged.defsFinal;
      definitionsWithLocations = merged.defsFinal;
      files = map (d: d.file) merged.defsFinal;
      options = throw "lib.modules: the options inside `${showOption loc}' are not listed here";
      __toString = _: showOption loc;
    };

  valuesOf = mapAttrs (_: o: if isOption o then o.value else valuesOf o);
in
rec {
  evalModules = { modules, specialArgs ? { }, prefix ? [ ], class ? null, args ? { }, check ? null }@evalArgs:
    let
      internal = {
        _file = "lib/modules.nix";
        key = "lib/modules.nix";
        options._module = {
          args = mkOption { type = types.lazyAttrsOf types.raw; description = "Arguments passed to each module."; };
          check = mkOption {
            type = types.bool;
            default = true;
            description = "Whether definitions without an option are errors.";
          };
          freeformType = mkOption {
            type = types.nullOr types.optionType;
            default = null;
            description = "Type of what has no option.";
          };
          specialArgs = mkOption {
            type = types.raw;
            readOnly = true;
            description = "Arguments that imports may depend on.";
          };
        };
        config._module = { args = args // { inherit extendModules; moduleType = type; }; inherit specialArgs; }
          // lib.optionalAttrs (check != null) { inherit check; };
      };
      # As in NixOS, what a module says comes after what later ones and its own imports say.
      collected = lib.reverseList (collectModules (specialArgs.modulesPath or "") (modules ++ [ internal ])
        ({ inherit lib options; config = allConfig; } // specialArgs));
      tree = mergeLevel prefix
        (map (m: { file = m._file; inherit (m) options; }) collected)
        (map (m: { file = m._file; value = m.config; }) collected);
      options = tree.options;
      declared = valuesOf options;
      # The part without `_module` must not be needed to find out about `_module`.
      freeform = declared._module.freeformType;
      relative = path: lib.drop (length prefix) path;
      stray = map (d: { inherit (d) file; value = lib.setAttrByPath (relative d.path) d.value; }) tree.unmatched;
      allConfig =
        if freeform == null || stray == [ ] then declared
        else lib.recursiveUpdate (freeform.merge prefix stray) declared;
      checked =
        let first = head tree.unmatched; in
        if !declared._module.check || freeform != null || tree.unmatched == [ ] then null
        else throw ("The option `${showOption first.path}' does not exist. Definition values:${showDefs [ first ]}"
          + lib.optionalString (isOption first.value || elem "options" first.path)
            "\n\nIt seems as if you're trying to declare an option by placing it into `config' rather than `options'!");
      extendModules = extra: evalModules (evalArgs // {
        modules = modules ++ extra.modules or [ ];
        specialArgs = specialArgs // extra.specialArgs or { };
        prefix = extra.prefix or prefix;
      });
      type = types.submoduleWith { inherit modules specialArgs class; };
      result = builtins.seq checked;
    in
    {
      _type = "configuration";
      inherit class extendModules type;
      options = result options;
      config = result (removeAttrs allConfig [ "_module" ]);
      _module = result declared._module // { inherit class; };
    };

  # Gives a module that has no file of its own one for messages.
  setDefaultModuleLocation = file: m: { _file = file; imports = [ m ]; };

  importApply = path: staticArg: setDefaultModuleLocation path (import path staticArg);
}
