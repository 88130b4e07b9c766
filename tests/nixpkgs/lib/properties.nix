# Properties: what a definition says besides its value (conditions, priorities, order), and how they are resolved.
{ lib }:
let
  inherit (builtins) concatMap mapAttrs foldl' filter any isAttrs addErrorContext;
  defaultPriority = 100;
  defaultOrder = 1000;
  priorityOf = def: if def.value._type or "" == "override" then def.value.priority else defaultPriority;
in
rec {
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkAssert = condition: message: content: mkIf (if condition then true else throw "\nFailed assertion: ${message}") content;
  mkDefinition = args: args // { _type = "definition"; };

  # The lowest number wins; definitions of equal priority are merged.
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkImageMediaOverride = mkOverride 60;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  defaultOverridePriority = defaultPriority;

  mkOrder = priority: content: { _type = "order"; inherit priority content; };
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
  defaultOrderPriority = defaultOrder;

  # The attribute sets that a definition of a set of options consists of: conditions and priorities move one level down, on
  # each member, so that the names are known without the conditions being evaluated.
  pushDownProperties = cfg:
    let kind = cfg._type or ""; in
    if kind == "merge" then concatMap pushDownProperties cfg.contents
    else if kind == "if" then map (mapAttrs (_: mkIf cfg.condition)) (pushDownProperties cfg.content)
    else if kind == "override" then map (mapAttrs (_: mkOverride cfg.priority)) (pushDownProperties cfg.content)
    else [ cfg ];

  # The values of one definition that count, with their priorities still on them.
  dischargeProperties = def:
    let kind = def._type or ""; in
    if kind == "merge" then concatMap dischargeProperties def.contents
    else if kind == "if" then
      if builtins.isBool def.condition then (if def.condition then dischargeProperties def.content else [ ])
      else throw "‘mkIf’ called with a non-Boolean condition"
    else [ def ];

  # The definitions of the best priority, without it.
  filterOverrides = defs: (filterOverrides' defs).values;
  filterOverrides' = defs:
    let
      highestPrio = foldl' (best: def: lib.min best (priorityOf def)) 9999 defs;
      strip = def: if def.value._type or "" == "override" then def // { value = def.value.content; } else def;
    in
    {
      inherit highestPrio;
      values = map strip (filter (def: priorityOf def == highestPrio) defs);
    };

  sortProperties = defs:
    let
      isOrder = def: def.value._type or "" == "order";
      strip = def:
        if isOrder def then def // { value = def.value.content; inherit (def.value) priority; }
        else def // { priority = defaultOrder; };
    in
    if any isOrder defs
    then map (def: removeAttrs def [ "priority" ]) (lib.sort (a: b: a.priority < b.priority) (map strip defs))
    else defs;

  # The value of an option of this type with these definitions, and whether there is one.
  mergeDefinitions = loc: type: defs: rec {
    defsFinal' =
      let
        discharged = concatMap (m: map (value:
          if value._type or "" == "definition" then removeAttrs value [ "_type" ] else { inherit (m) file; inherit value; })
          (addErrorContext "while evaluating definitions from `${m.file}':" (dischargeProperties m.value))) defs;
        best = filterOverrides' discharged;
      in
      best // { values = sortProperties best.values; };
    defsFinal = defsFinal'.values;
    isDefined = defsFinal != [ ];
    mergedValue =
      if !isDefined then
        throw "The option `${lib.showOption loc}' was accessed but has no value defined. Try setting the option."
      else if builtins.all (def: type.check def.value) defsFinal then type.merge loc defsFinal
      else
        throw "A definition for option `${lib.showOption loc}' is not of type `${type.description}'. Definition values:${
          lib.options.showDefs (filter (def: !type.check def.value) defsFinal)}";
    optionalValue = if isDefined then { value = mergedValue; } else { };
  };

  # Takes a definition apart so that it can be given to another option with the same priority.
  mkAliasDefinitions = mkAliasAndWrapDefinitions lib.id;
  mkAliasAndWrapDefinitions = wrap: option: mkIf (isAttrs option && option.isDefined) (wrap (mkMerge option.definitions));
  mkAliasAndWrapDefsWithPriority = wrap: option:
    mkIf option.isDefined (wrap (mkMerge (map (mkOverride option.highestPrio) option.definitions)));
  # A value made from that of another option, with its priority, so that forcing the one forces the other.
  mkDerivedConfig = option: f: mkOverride (option.highestPrio or defaultPriority) (f option.value);
}
