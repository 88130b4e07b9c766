# Types of options made from other types or from modules.
{ lib }:
let
  inherit (builtins) all concatLists head isAttrs isList isPath length mapAttrs zipAttrsWith;
  inherit (lib) mergeDefinitions mergeEqualOption mergeOneOption showOption;
  inherit (lib.types) mkOptionType defaultFunctor addCheck descriptionIn;

  ofPlain = descriptionIn [ "noun" "composite" ];
  orPlain = descriptionIn [ "noun" "conjunction" ];

  # Definitions of a set, turned into definitions of its members.
  membersOf = map (def: mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value);
  wraps = name: type: elem: defaultFunctor name // { inherit type; wrapped = elem; };
in
rec {
  listOf = elem: mkOptionType {
    name = "listOf";
    description = "list of ${ofPlain elem}";
    descriptionClass = "composite";
    check = isList;
    merge = loc: defs: map (x: x.value) (lib.filter (x: x ? value) (concatLists (lib.imap1 (n: def:
      lib.imap1 (m: value: (mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) elem
        [ { inherit (def) file; inherit value; } ]).optionalValue) def.value) defs)));
    emptyValue.value = [ ];
    getSubModules = elem.getSubModules;
    substSubModules = m: listOf (elem.substSubModules m);
    functor = wraps "listOf" listOf elem;
    nestedTypes.elemType = elem;
  };
  nonEmptyListOf = elem:
    let list = addCheck (listOf elem) (l: l != [ ]); in
    list // { description = "non-empty ${descriptionIn [ "noun" ] list}"; emptyValue = { }; };

  attrsOf = elem: mkOptionType {
    name = "attrsOf";
    description = "attribute set of ${ofPlain elem}";
    descriptionClass = "composite";
    check = isAttrs;
    # A member all of whose definitions are off (mkIf false) is not there.
    merge = loc: defs: mapAttrs (_: v: v.value) (lib.filterAttrs (_: v: v ? value)
      (zipAttrsWith (name: ds: (mergeDefinitions (loc ++ [ name ]) elem ds).optionalValue) (membersOf defs)));
    emptyValue.value = { };
    getSubModules = elem.getSubModules;
    substSubModules = m: attrsOf (elem.substSubModules m);
    functor = wraps "attrsOf" attrsOf elem;
    nestedTypes.elemType = elem;
  };
  # Knows its members' names without evaluating their conditions; a member that is off is then an error when used.
  lazyAttrsOf = elem: mkOptionType {
    name = "lazyAttrsOf";
    description = "lazy attribute set of ${ofPlain elem}";
    descriptionClass = "composite";
    check = isAttrs;
    merge = loc: zip: zipAttrsWith (name: ds:
      let merged = mergeDefinitions (loc ++ [ name ]) elem ds; in
      merged.optionalValue.value or elem.emptyValue.value or merged.mergedValue) (membersOf zip);
    emptyValue.value = { };
    getSubModules = elem.getSubModules;
    substSubModules = m: lazyAttrsOf (elem.substSubModules m);
    functor = wraps "lazyAttrsOf" lazyAttrsOf elem;
    nestedTypes.elemType = elem;
  };
  attrsWith = { elemType, lazy ? false, placeholder ? "name" }: (if lazy then lazyAttrsOf else attrsOf) elemType;
  loaOf = attrsOf;

  nullOr = elem: mkOptionType {
    name = "nullOr";
    description = "null or ${orPlain elem}";
    descriptionClass = "conjunction";
    check = x: x == null || elem.check x;
    merge = loc: defs:
      let nulls = lib.count (d: d.value == null) defs; in
      if nulls == length defs then null
      else if nulls != 0 then throw "The option `${showOption loc}' is defined both null and not null, in ${lib.showFiles (lib.getFiles defs)}."
      else elem.merge loc defs;
    emptyValue.value = null;
    getSubModules = elem.getSubModules;
    substSubModules = m: nullOr (elem.substSubModules m);
    functor = wraps "nullOr" nullOr elem;
    nestedTypes.elemType = elem;
  };

  uniq = unique { message = ""; };
  unique = { message }: elem: mkOptionType {
    name = "unique";
    inherit (elem) description descriptionClass check emptyValue getSubModules;
    merge = lib.mergeUniqueOption { inherit message; inherit (elem) merge; };
    substSubModules = m: uniq (elem.substSubModules m);
    functor = wraps "unique" (unique { inherit message; }) elem;
    nestedTypes.elemType = elem;
  };

  either = a: b: mkOptionType {
    name = "either";
    description =
      if a.descriptionClass == "nonRestrictiveClause" then "${a.description}, or ${orPlain b}"
      else "${orPlain a} or ${descriptionIn [ "noun" "conjunction" "composite" ] b}";
    descriptionClass = "conjunction";
    check = x: a.check x || b.check x;
    merge = loc: defs:
      if all (d: a.check d.value) defs then a.merge loc defs
      else if all (d: b.check d.value) defs then b.merge loc defs
      else mergeOneOption loc defs;
    typeMerge = other:
      let
        a' = a.typeMerge (lib.elemAt other.wrapped 0).functor;
        b' = b.typeMerge (lib.elemAt other.wrapped 1).functor;
      in
      if other.name == "either" && a' != null && b' != null then either a' b' else null;
    functor = defaultFunctor "either" // { wrapped = [ a b ]; };
    nestedTypes = { left = a; right = b; };
  };
  oneOf = list: builtins.foldl' either (head list) (builtins.tail list);

  coercedTo = from: coerce: to: mkOptionType {
    name = "coercedTo";
    description = "${descriptionIn [ "noun" ] to} or ${descriptionIn [ "noun" ] from} convertible to it";
    check = x: (from.check x && to.check (coerce x)) || to.check x;
    merge = loc: defs: to.merge loc (map (d: d // { value = if from.check d.value then coerce d.value else d.value; }) defs);
    inherit (to) emptyValue getSubModules;
    substSubModules = m: coercedTo from coerce (to.substSubModules m);
    typeMerge = _: null;
    nestedTypes = { coercedType = from; finalType = to; };
  };

  functionTo = result: mkOptionType {
    name = "functionTo";
    description = "function that evaluates to a(n) ${ofPlain result}";
    descriptionClass = "composite";
    check = lib.isFunction;
    merge = loc: defs: arg:
      (mergeDefinitions (loc ++ [ "<function body>" ]) result (map (d: d // { value = d.value arg; }) defs)).mergedValue;
    getSubModules = result.getSubModules;
    substSubModules = m: functionTo (result.substSubModules m);
    functor = wraps "functionTo" functionTo result;
    nestedTypes.elemType = result;
  };

  # Sets are merged member by member, everything else must be equal.
  anything = mkOptionType {
    name = "anything";
    description = "anything";
    merge = loc: defs:
      let
        kind = v: if isAttrs v && lib.isStringLike v then "package" else builtins.typeOf v;
        first = kind (head defs).value;
      in
      if !all (d: kind d.value == first) defs
      then throw "The option `${showOption loc}' has conflicting option types in ${lib.showFiles (lib.getFiles defs)}"
      else if first == "set" then (attrsOf anything).merge loc defs
      else if first == "package" then mergeOneOption loc defs
      else if first == "lambda" then
        arg: anything.merge (loc ++ [ "<function body>" ]) (map (d: d // { value = d.value arg; }) defs)
      else mergeEqualOption loc defs;
  };

  submodule = modules: submoduleWith { shorthandOnlyDefinesConfig = true; modules = lib.toList modules; };
  submoduleWith = { modules, specialArgs ? { }, shorthandOnlyDefinesConfig ? false, description ? null, class ? null }@args:
    let
      name = "submodule";
      base = lib.evalModules {
        inherit class specialArgs;
        modules = [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ] ++ modules;
      };
      asModule = def:
        if isAttrs def.value && shorthandOnlyDefinesConfig then { _file = def.file; config = def.value; }
        else lib.setDefaultModuleLocation def.file def.value;
    in
    mkOptionType {
      inherit name;
      descriptionClass = null;
      description =
        if description != null then description
        else let free = base._module.freeformType; in
        if free == null then name else "open ${name} of ${ofPlain free}";
      check = x: isAttrs x || lib.isFunction x || isPath x;
      merge = loc: defs: (base.extendModules {
        modules = [ { _module.args.name = lib.last loc; } ] ++ map asModule defs;
        prefix = loc;
      }).config;
      emptyValue.value = { };
      getSubModules = modules;
      getSubOptions = prefix: (base.extendModules { inherit prefix; }).options;
      substSubModules = m: submoduleWith (args // { modules = m; });
      functor = defaultFunctor name // {
        type = submoduleWith;
        payload = { inherit modules specialArgs shorthandOnlyDefinesConfig description class; };
        binOp = a: b: a // { modules = a.modules ++ b.modules; specialArgs = a.specialArgs // b.specialArgs; };
      };
    };

  # A module kept as it is, to be evaluated elsewhere.
  deferredModule = deferredModuleWith { };
  deferredModuleWith = { staticModules ? [ ] }: mkOptionType {
    name = "deferredModule";
    description = "module";
    check = x: isAttrs x || lib.isFunction x || isPath x;
    merge = loc: defs: {
      imports = staticModules ++ map (d: lib.setDefaultModuleLocation "${d.file}, via option ${showOption loc}" d.value) defs;
    };
  };
}
