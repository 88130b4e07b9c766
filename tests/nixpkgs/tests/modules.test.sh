# The module system: merging, priorities, arguments, submodules.
value 'definitions of one option are merged, those of later modules first, as in NixOS' \
    '(eval [ { options.x = option (listOf int); } { x = [ 1 ]; } { config.x = [ 2 ]; } ]).x' '[2,1]'
value 'a default gives way to a definition' \
    '(eval [ { options.x = mkOption { type = int; default = 1; }; } { x = 2; } ]).x' '2'
value 'mkDefault gives way, mkForce wins' \
    '(eval [ { options.x = option int; } { x = mkDefault 1; } { x = 2; } { x = mkForce 3; } ]).x' '3'
value 'mkOverride with the lower number wins' \
    '(eval [ { options.x = option int; } { x = mkOverride 9 1; } { x = mkOverride 8 2; } ]).x' '2'
value 'mkBefore and mkAfter order lists' \
    '(eval [ { options.x = option (listOf int); } { x = mkAfter [ 3 ]; } { x = [ 2 ]; } { x = mkBefore [ 1 ]; } ]).x' '[1,2,3]'
value 'mkIf takes a whole set of options out' \
    '(eval [ { options.a.b = mkOption { type = int; default = 0; }; config = mkIf false { a.b = 1; }; } ]).a.b' '0'
value 'a condition may depend on the configuration it adds to' \
    '(eval [ ({ config, ... }: { options.on = option bool; options.x = mkOption { type = int; default = 0; }; config = mkIf config.on { x = 1; }; }) { on = true; } ]).x' '1'
value 'mkMerge joins sets' \
    '(eval [ { options.x = option (attrsOf int); config = mkMerge [ { x.a = 1; } (mkIf true { x.b = 2; }) (mkIf false { x.c = 3; }) ]; } ]).x' '{"a":1,"b":2}'
value 'mkForce on a set of options reaches each' \
    '(eval [ { options.a.b = option int; } { a.b = 1; } { a = mkForce { b = 2; }; } ]).a.b' '2'
value 'apply sees the merged value' \
    '(eval [ { options.x = mkOption { type = listOf int; apply = builtins.length; }; } { x = [ 7 7 ]; } ]).x' '2'
value 'imports are followed, and each module counts once' \
    'let m = { key = "m"; x = [ 1 ]; }; in (eval [ { options.x = option (listOf int); imports = [ m { imports = [ m ]; } ]; } ]).x' '[1]'
value 'a disabled module is left out with its imports' \
    'let m = { key = "m"; imports = [ { x = [ 1 ]; } ]; }; in (eval [ { options.x = mkOption { type = listOf int; default = [ ]; }; imports = [ m ]; } { disabledModules = [ { key = "m"; } ]; } ]).x' '[]'
value 'imports may depend on specialArgs' \
    '(lib.evalModules { specialArgs.machine.role = "db"; modules = [ ({ machine, ... }: { imports = lib.optional (machine.role == "db") { x = 5; }; options.x = option int; }) ]; }).config.x' '5'
value '_module.args reaches modules by name' \
    '(eval [ { options.x = option int; config._module.args.answer = 42; } ({ answer, ... }: { x = answer; }) ]).x' '42'
fails 'an argument nobody gives is named with its module' \
    '(eval [ { options.x = option int; } ({ nobody, ... }: { _file = "here.nix"; x = nobody; }) ]).x' "attribute 'nobody' missing"
value 'extendModules adds to an evaluation' \
    'let e = lib.evalModules { modules = [ { options.x = option (listOf int); } { x = [ 1 ]; } ]; }; in (e.extendModules { modules = [ { x = [ 2 ]; } ]; }).config.x' '[2,1]'
value 'extendModules adds to specialArgs' \
    'let e = lib.evalModules { specialArgs.a = 1; modules = [ ({ a, ... }: { options.x = mkOption { default = a; }; }) ]; }; in (e.extendModules { specialArgs.a = 2; }).config.x' '2'
value 'a submodule knows its name' \
    '(of (attrsOf (submodule ({ name, ... }: { options.n = mkOption { type = str; default = name; }; }))) { web = { }; }).web.n' '"web"'
value 'definitions inside a submodule are merged with their priorities' \
    '(eval [ { options.x = option (submodule { options.y = option int; }); } { x.y = mkDefault 1; } { x.y = 2; } ]).x.y' '2'
value 'an option declared inside a submodule from outside belongs to it' \
    '(eval [ { options.x = option (submodule { options.a = option int; }); } { options.x.b = option int; } { x = { a = 1; b = 2; }; } ]).x' '{"a":1,"b":2}'
value 'one option declared twice with one type is one option' \
    '(eval [ { options.x = option (listOf int); } { options.x = option (listOf int); } { x = [ 1 ]; } ]).x' '[1]'
value 'declarations of an enum are joined' \
    '(eval [ { options.x = option (types.enum [ "a" ]); } { options.x = option (types.enum [ "b" ]); } { x = "b"; } ]).x' '"b"'
value 'a free-form type takes what has no option' \
    '(of (submodule { freeformType = attrsOf int; options.a = mkOption { type = int; default = 1; }; }) { b = 2; })' '{"a":1,"b":2}'
value 'the type of an evaluation is a submodule with its options' \
    'let e = lib.evalModules { modules = [ { options.a = mkOption { type = int; default = 1; }; } ]; }; in (of e.type { a = 3; }).a' '3'
value '_module.check can be switched off' \
    '(eval [ { options.x = option int; } { _module.check = false; } { x = 1; nothing = 2; } ]).x' '1'
value 'an option tells its files and priority' \
    'let o = (lib.evalModules { modules = [ { options.x = option int; } { _file = "a.nix"; x = mkForce 1; } ]; }).options.x; in { inherit (o) files highestPrio isDefined; }' '{"files":["a.nix"],"highestPrio":50,"isDefined":true}'
value 'a renamed option hands its value on' \
    '(eval [ (lib.mkRenamedOptionModule [ "old" ] [ "new" "name" ]) { options.new.name = option int; options.warnings = option (listOf str); } { old = 3; } ]).new.name' '3'

fails 'an option that does not exist is named with its file' \
    '(eval [ { _file = "my.nix"; networking.hostname = "x"; } ])' "The option \`networking' does not exist. Definition values:" "- In \`my.nix':"
fails 'a wrong type names option, type, file and value' \
    '(eval [ { options.x.y = option int; } { _file = "my.nix"; x.y = "five"; } ]).x.y' \
    "A definition for option \`x.y' is not of type \`signed integer'. Definition values:" "- In \`my.nix': \"five\""
fails 'conflicting values are shown with both files' \
    '(eval [ { options.x = option str; } { _file = "a.nix"; x = "1"; } { _file = "b.nix"; x = "2"; } ]).x' \
    "The option \`x' has conflicting definition values:" "- In \`a.nix': \"1\"" "- In \`b.nix': \"2\"" 'mkForce'
fails 'an option without a value says so' \
    '(eval [ { options.x = option str; } ]).x' "The option \`x' was accessed but has no value defined. Try setting the option."
fails 'a read-only option is set once' \
    '(eval [ { options.x = mkOption { type = int; readOnly = true; default = 1; }; } { x = 2; } ]).x' "The option \`x' is read-only, but it's set multiple times."
fails 'an option declared with two types is refused' \
    '(eval [ { _file = "a.nix"; options.x = option int; } { _file = "b.nix"; options.x = option str; } ]).x' "The option \`x' in \`a.nix' is already declared in \`b.nix'"
fails 'a set beside config is explained' \
    '(eval [ { _file = "a.nix"; config = { }; networking = { }; } ])' "has an unsupported attribute \`networking'"
fails 'a value where options are is explained' \
    '(eval [ { options.a.b = option int; } { _file = "my.nix"; a = 3; } ]).a.b' "In module \`my.nix'" "you're trying to define a value of type \`int' rather than an attribute set for the option \`a'!"
fails 'an unknown option of a submodule is named whole' \
    '(of (attrsOf (submodule { options.a = option int; })) { web.b = 1; }).web.a' "The option \`x.web.b' does not exist."
fails 'a throw in a configuration is shown' \
    '(eval [ { options.x = option str; } { x = throw "the reason"; } ]).x' 'the reason'
