# NixOS's options and the ways to evaluate a configuration.
cat > "$work/tutorial.nix" <<'NIX'
{ config, lib, pkgs, ... }: {
  imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];

  # Open https://search.nixos.org/options for all options
}
NIX
system="(import <nixpkgs/nixos> { configuration = $work/tutorial.nix; })"
value 'the configuration of the tutorial gives a system' "lib.hasSuffix \".drv\" $system.system.drvPath" 'true'
value 'its machine runs sshd, with root allowed by key' \
    "with $system.config.services.openssh; [ enable settings.PermitRootLogin ]" '[true,"prohibit-password"]'
value 'its name is left to EC2' "$system.config.networking.hostName" '""'
value 'a missing stateVersion is a warning' "builtins.length $system.config.warnings" '1'
value 'a stateVersion is none' '(nixos { system.stateVersion = "25.11"; }).warnings' '[]'
value 'nixos-config names the configuration' "let x = scopedImport { __nixPath = __nixPath ++ [ { prefix = \"nixos-config\"; path = $work/tutorial.nix; } ]; } <nixpkgs/nixos/default.nix> { }; in x.config.ec2.efi" 'false'

value 'a service becomes a unit like those of NixOS' \
    'lib.filter (l: !(lib.hasInfix "PATH=" l)) (lib.splitString "\n" (nixos { systemd.services.a = { description = "A"; after = [ "network.target" ]; wantedBy = [ "multi-user.target" ]; restartIfChanged = false; environment.X = "1 \"2\""; serviceConfig = { ExecStart = "/x"; Restart = "always"; ExecStartPre = [ "/p" "/q" ]; }; }; }).systemd.units."a.service".text)' \
    '["[Unit]","After=network.target","Description=A","","[Service]","Environment=\"X=1 \\\"2\\\"\"","X-RestartIfChanged=false","ExecStart=/x","ExecStartPre=/p","ExecStartPre=/q","Restart=always","","[Install]","WantedBy=multi-user.target",""]'
value 'preStart and ExecStartPre are both run' \
    'builtins.length (nixos { systemd.services.a = { preStart = "true"; serviceConfig.ExecStartPre = "/p"; }; }).systemd.services.a.serviceConfig.ExecStartPre' '2'
value 'startAt makes a timer' '(nixos { systemd.services.a = { script = "true"; startAt = "daily"; }; }).systemd.timers.a.timerConfig' '{"OnCalendar":["daily"]}'
value 'a disabled service is masked' 'lib.hasSuffix "-disabled" (nixos { systemd.services.a.enable = false; }).systemd.units."a.service".unit.name' 'true'
value 'restart triggers change the unit' \
    'let t = x: (nixos { systemd.services.a.restartTriggers = [ x ]; }).systemd.units."a.service".text; in [ (t "1" == t "1") (t "1" == t "2") ]' '[true,false]'
value 'activation scripts may be plain strings' '(nixos { system.activationScripts.a = "true"; }).system.activationScripts.a.text' '"true"'
value 'activation scripts may name what comes before' \
    '(nixos ({ lib, ... }: { system.activationScripts.a = lib.stringAfter [ "etc" ] "true"; })).system.activationScripts.a.deps' '["etc"]'
value 'text of an etc file becomes its source' 'lib.hasSuffix "-etc-a-b" (nixos { environment.etc."a/b".text = "x"; }).environment.etc."a/b".source' 'true'
value 'binaryCaches is the old name of substituters' '(nixos { nix.binaryCaches = [ "https://c" ]; }).nix.settings.substituters' '["https://c"]'
value 'settings of Nix and sshd take what has no option' \
    'let c = nixos { nix.settings.keep-outputs = true; services.openssh.settings.MaxAuthTries = 3; }; in [ c.nix.settings.keep-outputs c.services.openssh.settings.MaxAuthTries ]' '[true,3]'
value 'a specialisation is the system with additions' \
    'let c = nixos { networking.hostName = "a"; specialisation.x.configuration = { networking.domain = "d"; }; }; in c.specialisation.x.configuration.networking.fqdn' '"a.d"'
value 'another kernel is another system' \
    'let k = m: (nixos m).system.build.toplevel.outPath; in k { } == k ({ pkgs, ... }: { boot.kernelPackages = pkgs.linuxPackages_latest; })' 'false'
value 'overlays change packages' '(nixos ({ pkgs, ... }: { nixpkgs.overlays = [ (final: prev: { mine = prev.hello or 7; }) ]; system.build.x = pkgs.mine; })).system.build.x' '7'
value 'another system is another platform' \
    '(import <nixpkgs/nixos> { system = "aarch64-linux"; configuration = { pkgs, ... }: { system.build.x = pkgs.stdenv.hostPlatform.isAarch64; }; }).config.system.build.x' 'true'
value 'hostPlatform wins over the system of the caller' '(import <nixpkgs/nixos/lib/eval-config.nix> { modules = [ { nixpkgs.hostPlatform = "aarch64-linux"; } ]; }).pkgs.system' '"aarch64-linux"'
value 'eval-config hands specialArgs to imports' \
    '(import <nixpkgs/nixos/lib/eval-config.nix> { specialArgs.machine = builtins.fromJSON "{\"name\":\"web-1\",\"big\":true}"; modules = [ ({ machine, lib, ... }: { imports = lib.optional machine.big { networking.domain = "d"; }; networking.hostName = machine.name; }) ]; }).config.networking.fqdn' '"web-1.d"'
value 'an evaluated system can be extended' \
    '((import <nixpkgs/nixos/lib/eval-config.nix> { modules = [ { networking.hostName = "a"; } ]; }).extendModules { specialArgs.machine.name = "b"; modules = [ ({ machine, lib, ... }: { networking.hostName = lib.mkForce machine.name; }) ]; }).config.networking.hostName' '"b"'
value 'a closure of a given size is part of the system' \
    'builtins.length (nixos { nixpipe.closure = { paths = 300; megabytes = 100; }; }).system.extraDependencies' '300'
value 'changed paths of a closure change nothing that they are not referred to by' \
    'let p = n: map (d: d.outPath) (nixos { nixpipe.closure = { paths = 300; megabytes = 100; changed = n; }; }).system.extraDependencies; a = p 0; b = p 3; d = lib.count (i: builtins.elemAt a i != builtins.elemAt b i) (lib.range 0 299); in d >= 3 && d < 30' 'true'

fails 'a misspelt option is an error with its file' "(import <nixpkgs/nixos> { configuration = { _file = \"my.nix\"; networking.hostname = \"x\"; }; }).config.networking.hostName" \
    "The option \`networking.hostname' does not exist. Definition values:" "- In \`my.nix': \"x\""
fails 'a number as host name is a type error' '(nixos { networking.hostName = 5; }).networking.hostName' \
    "A definition for option \`networking.hostName' is not of type \`string matching the pattern"
fails 'a failed assertion stops the toplevel' '(nixos { assertions = [ { assertion = false; message = "not like this"; } ]; }).system.build.toplevel.drvPath' 'Failed assertions:' '- not like this'
fails 'a configuration without a root file system gives no toplevel' '(import <nixpkgs/nixos> { configuration = { }; }).system.drvPath' 'does not specify your root file system'
fails 'a throw in a configuration is its error' '(nixos { networking.hostName = throw "no name for you"; }).system.build.toplevel.drvPath' 'no name for you'
fails 'a unit name without a kind is refused' '(nixos { systemd.services.a.after = [ "network" ]; }).systemd.services.a.after' "systemd.services.a.after.\"[definition 1-entry 1]\"' is not of type"
fails 'a user without a group is refused' '(nixos { users.users.a.isSystemUser = true; }).system.build.toplevel.drvPath' 'users.users.a.group is unset'
fails 'swap is refused' '(nixos { swapDevices = [ { device = "/swap"; } ]; }).system.build.toplevel.drvPath' 'cannot swap'
fails 'an unknown system is refused' '(import <nixpkgs> { system = "riscv64-linux"; }).bash.outPath' "knows the systems aarch64-linux and x86_64-linux, not \`riscv64-linux'"

if wanted 'a flake with nixosSystem evaluates purely'; then
    mkdir "$work/flake"
    cat > "$work/flake/flake.nix" <<NIX
{
  inputs.nixpkgs.url = "path:$root";
  outputs = { self, nixpkgs }: {
    nixosConfigurations.web = nixpkgs.lib.nixosSystem {
      specialArgs.domain = "d";
      modules = [
        ({ modulesPath, domain, ... }: {
          imports = [ "\${modulesPath}/virtualisation/amazon-image.nix" ];
          nixpkgs.hostPlatform = "x86_64-linux";
          networking = { hostName = "web"; inherit domain; };
          system.stateVersion = "26.05";
        })
      ];
    };
  };
}
NIX
    got=$(nix eval --raw "path:$work/flake#nixosConfigurations.web.config" \
        --apply 'c: "${c.networking.fqdn} ${c.system.build.toplevel.name}"' 2> "$work/stderr") || got=$(cat "$work/stderr")
    [ "$got" = 'web.d nixos-system-web-26.05.nixpipe' ] || bad 'a flake with nixosSystem evaluates purely' "$got"
fi
if wanted 'the configuration of the tutorial costs little to evaluate'; then
    # Nix calls functions about 1.6 million times in a second.
    NIX_SHOW_STATS=1 nix-instantiate "$root/nixos" -A system --arg configuration "$work/tutorial.nix" > /dev/null 2> "$work/stderr" \
        || bad 'the configuration of the tutorial evaluates' "$(cat "$work/stderr")"
    calls=$(sed -n 's/.*"nrFunctionCalls": \([0-9]*\).*/\1/p' "$work/stderr")
    [ "${calls:-0}" -gt 0 ] && [ "$calls" -lt 500000 ] \
        || bad 'the configuration of the tutorial costs little to evaluate' "  it took ${calls:-unknown} calls of functions"
fi
