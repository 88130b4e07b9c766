# Modules that keep an old option name working, or say that it is gone.
{ lib }:
let
  inherit (lib) mkOption mkIf mkMerge showOption getAttrFromPath setAttrByPath optional;
in
rec {
  mkRemovedOptionModule = path: hint: { options, ... }:
    let old = getAttrFromPath path options; in
    {
      options = setAttrByPath path (mkOption {
        visible = false;
        apply = _: throw "The option `${showOption path}' can no longer be used since it's been removed. ${hint}";
      });
      config.assertions = [ {
        assertion = !old.isDefined;
        message = "The option definition `${showOption path}' in ${lib.showFiles old.files} "
          + "no longer has any effect; please remove it.\n${hint}\n";
      } ];
    };

  doRename = { from, to, visible ? false, warn ? true, use ? lib.id, withPriority ? true, condition ? true }:
    { config, options, ... }:
    let
      alias = if withPriority then lib.modules.mkAliasAndWrapDefsWithPriority else lib.mkAliasAndWrapDefinitions;
      old = getAttrFromPath from options;
      # Absent where the new name lies inside a submodule.
      new = lib.attrByPath to { } options;
    in
    {
      options = setAttrByPath from (mkOption ({
        inherit visible;
        description = "Alias of `${showOption to}'.";
        apply = _: use (getAttrFromPath to config);
      } // lib.optionalAttrs (new ? type) { inherit (new) type; }));
      config = mkIf condition (mkMerge [
        (lib.optionalAttrs (options ? warnings) {
          warnings = optional (warn && old.isDefined)
            "The option `${showOption from}' defined in ${lib.showFiles old.files} has been renamed to `${showOption to}'.";
        })
        (setAttrByPath to (alias lib.id old))
      ]);
    };

  mkRenamedOptionModule = from: to:
    doRename {
      inherit from to;
      use = builtins.trace "Obsolete option `${showOption from}' is used. It was renamed to `${showOption to}'.";
    };
  mkAliasOptionModule = from: to: doRename { inherit from to; visible = true; warn = false; };
}
