# Functions that make derivations. Their builders need only the tools of this package set, so that they also work on a
# machine whose /bin holds nothing but sh.
{ lib, pkgs, system }:
let
  inherit (pkgs) bash coreutils findutils gnugrep gnused gawk;
  builderPath = lib.makeBinPath [ coreutils findutils gnugrep gnused gawk bash ];

  mkDerivation = args:
    let
      # stdenv's arguments that say something about the package, not to its builder.
      attrs = removeAttrs (if lib.isFunction args then args (attrs // { finalPackage = drv; }) else args)
        [ "meta" "passthru" "pname" "version" "nativeBuildInputs" "buildInputs" ];
      given = if lib.isFunction args then args { } else args;
      name = given.name or "${given.pname or (throw "mkDerivation: neither name nor pname is given")}-${given.version or "0"}";
      inputs = given.nativeBuildInputs or [ ] ++ given.buildInputs or [ ];
      drv = derivation (attrs // {
        name = lib.strings.sanitizeDerivationName name;
        inherit system;
        builder = "${bash}/bin/bash";
        args = [ "-e" ./setup.sh ];
        PATH = lib.optionalString (inputs != [ ]) "${lib.makeBinPath inputs}:" + builderPath;
      });
    in
    drv // (given.passthru or { }) // {
      meta = given.meta or { };
      pname = given.pname or (lib.getName name);
      version = given.version or (lib.getVersion name);
      overrideAttrs = f: mkDerivation (given // (if lib.isFunction f then f given else f));
    };

  quick = { preferLocalBuild = true; allowSubstitutes = false; };
in
rec {
  stdenv = {
    inherit mkDerivation;
    inherit (pkgs) hostPlatform buildPlatform targetPlatform;
    inherit (pkgs.hostPlatform) system isLinux isDarwin isx86_64 isAarch64;
    shell = "${bash}/bin/bash";
  };
  stdenvNoCC = stdenv;

  runCommand = name: env: buildCommand: mkDerivation (env // { inherit name buildCommand; });
  runCommandLocal = name: env: runCommand name (env // quick);
  runCommandCC = runCommand;
  runCommandNoCC = runCommand;

  writeTextFile = { name, text, executable ? false, destination ? "", checkPhase ? "", meta ? { }, ... }:
    mkDerivation (quick // {
      inherit name text checkPhase meta;
      passAsFile = [ "text" ];
      # The name of the file, when it lies in a folder of its own.
      inherit destination;
      buildCommand = ''
        target=$out$destination
        mkdir -p "$(dirname "$target")"
        cp "$textPath" "$target"
        ${lib.optionalString executable "chmod +x \"$target\""}
        eval "$checkPhase"
      '';
    });
  writeText = name: text: writeTextFile { inherit name text; };
  writeTextDir = path: text: writeTextFile { name = baseNameOf path; inherit text; destination = "/${path}"; };
  writeScript = name: text: writeTextFile { inherit name text; executable = true; };
  writeScriptBin = name: text: writeTextFile { inherit name text; executable = true; destination = "/bin/${name}"; };
  writeShellScript = name: text: writeScript name "#!${bash}/bin/bash\n${text}";
  writeShellScriptBin = name: text: writeTextFile {
    inherit name;
    text = "#!${bash}/bin/bash\n${text}\n";
    executable = true;
    destination = "/bin/${name}";
    meta.mainProgram = name;
  };
  writeShellApplication = { name, text, runtimeInputs ? [ ], meta ? { }, bashOptions ? [ "errexit" "nounset" "pipefail" ], ... }:
    writeTextFile {
      inherit name;
      meta = { mainProgram = name; } // meta;
      executable = true;
      destination = "/bin/${name}";
      text = "#!${bash}/bin/bash\n"
        + lib.concatMapStrings (o: "set -o ${o}\n") bashOptions
        + lib.optionalString (runtimeInputs != [ ]) "export PATH=\"${lib.makeBinPath runtimeInputs}:$PATH\"\n"
        + text + "\n";
    };
  concatText = name: files: runCommandLocal name { inherit files; } "cat $files > $out";
  concatTextFile = { name, files, ... }: concatText name files;
  writeJSON = name: value: writeText name (builtins.toJSON value);

  linkFarm = name: entries:
    let
      list = if lib.isAttrs entries then lib.mapAttrsToList (name: path: { inherit name path; }) entries else entries;
    in
    runCommandLocal name { } ("mkdir -p $out\ncd $out\n" + lib.concatMapStrings (e: ''
      mkdir -p "$(dirname ${lib.escapeShellArg e.name})"
      ln -s ${lib.escapeShellArg "${e.path}"} ${lib.escapeShellArg e.name}
    '') list);
  linkFarmFromDrvs = name: drvs: linkFarm name (map (drv: { inherit (drv) name; path = drv; }) drvs);

  # One tree of links to the files of several packages; of two files with one name the first package's is taken.
  buildEnv = { name, paths, pathsToLink ? [ "/" ], postBuild ? "", extraPrefix ? "", meta ? { }, ... }:
    mkDerivation (quick // {
      inherit name paths pathsToLink postBuild extraPrefix meta;
      passAsFile = [ "paths" ];
      buildCommand = ''
        mkdir -p "$out$extraPrefix"
        for package in $(cat "$pathsPath"); do
          for part in $pathsToLink; do
            [ -d "$package/$part" ] || continue
            mkdir -p "$out$extraPrefix$part"
            cp -rsnT "$(realpath "$package/$part")" "$out$extraPrefix$part"
            chmod -R u+w "$out"
          done
        done
        eval "$postBuild"
      '';
    });
  symlinkJoin = args: buildEnv (removeAttrs args [ "pname" "version" ] // { name = args.name or "${args.pname}-${args.version}"; });

  emptyFile = writeText "empty-file" "";
  emptyDirectory = runCommandLocal "empty-directory" { } "mkdir $out";
  formats = import ./formats.nix { inherit lib pkgs; };
} // import ./linux.nix { inherit lib pkgs; }
